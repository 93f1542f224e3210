"""A policy's training from one YAML file: `data`, `policy`, `train`, `rollout`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainwright import __version__
from trainwright.args.training import TrainingArguments
from trainwright.callbacks.early_stopping import EarlyStoppingCallback
from trainwright.config.keys.task_uses import IMITATION, SIZES
from trainwright.config.reading.ranges import check_values
from trainwright.config.sections import check_keys, read_sections
from trainwright.errors import ConfigError, did_you_mean
from trainwright.tasks.imitation.episodes import Episode, as_classes, read_episodes, split
from trainwright.tasks.imitation.experts import record
from trainwright.tasks.imitation.loading import kinds
from trainwright.tasks.imitation.policies.normalize import ACTION, KINDS, sizes_of
from trainwright.tasks.imitation.policies.policy import Policy
from trainwright.tasks.imitation.rollout import Rollouts
from trainwright.tasks.imitation.trainer import PolicyTrainer
from trainwright.tasks.imitation.windows import Together, Windows

RUN_FILE = "imitation.yaml"
SECTIONS = ("data", "policy", "train", "rollout")


@dataclass
class Parts:
    """What a file describes: policy, data and how it is tried; and what the user should know of them."""

    policy: Policy
    train: Windows
    held_out: Windows | None
    rollouts: Rollouts | None
    notes: list[str]


def read_file(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the sections of a file with dotted overrides.

    Raises:
        ConfigError: there is no such file, it is no YAML, or it has other sections.
    """
    return {name: section or {} for name, section in read_sections(path, overrides, SECTIONS).items()}


def folder_of(sections: Mapping[str, Any]) -> Path:
    """Return the folder of the run that a file describes."""
    return Path((sections.get("train") or {}).get("output_dir") or "trainer_output").expanduser()


def check_unchanged(sections: Mapping[str, Any]) -> None:
    """Raise a ConfigError where a file asks for another policy or other demonstrations than the run in its folder began
    with; `train` and `rollout` hold as they are now."""
    folder = folder_of(sections)
    if not (folder / RUN_FILE).is_file():
        return
    began = read_file(folder / RUN_FILE)
    for part in ("data", "policy"):
        now, then = sections.get(part) or {}, began.get(part) or {}
        for name in {**now, **then}:
            if now.get(name) != then.get(name) and not (name == "path" and not Path(str(then.get(name))).exists()):
                raise ConfigError(
                    f"{part}.{name} is {now.get(name)!r}, but the run in '{folder}' began with {then.get(name)!r}, and "
                    "goes on with that alone. Take it back, or begin another run: train.output_dir=FOLDER."
                )


def parts(sections: Mapping[str, Any]) -> Parts:
    """Return what a file describes, the demonstrations recorded first where it says how.

    Raises:
        ConfigError, DataError: a key, a value or data that cannot work.
    """
    data = dict(sections.get("data") or {})
    check_keys(data, IMITATION["data"], "data")
    check_values(data, "data")
    episodes = demonstrations(data)
    notes = []
    if "held_out" in data and any(one.about.get("split") for one in episodes):
        notes.append(
            "The file of the demonstrations says which are held out; data.held_out divides only what it leaves."
        )
    train, held_out = split(episodes, float(data.get("held_out", 0.1)), int(data.get("split_seed", 0)))
    window = {"history": int(data.get("history", 1)), "chunk": int(data.get("chunk", 1))}
    policy = new_policy(dict(sections.get("policy") or {}), train, bool(data.get("discrete", False)), window)
    rollouts = None
    if sections.get("rollout"):
        check_keys(sections["rollout"], IMITATION["rollout"], "rollout")
        check_values(sections["rollout"], "rollout")
        if "env" not in sections["rollout"]:
            raise ConfigError("rollout.env must be given: the name of an environment.")
        rollouts = Rollouts(**sections["rollout"])
        rollouts.prepare(policy)
        assert rollouts.rule is not None
        notes.append(f"A success is {rollouts.rule.text}.")
    return Parts(policy, Windows(train, **window), Windows(held_out, **window) if held_out else None, rollouts, notes)


def demonstrations(data: Mapping[str, Any]) -> list[Episode]:
    """Return the episodes of a section `data`: of `path`, or recorded as `record` says; discrete actions as classes."""
    path = None if data.get("path") is None else Path(data["path"]).expanduser()
    if path is None and data.get("record") is None:
        raise ConfigError("data needs either `path`, a file or folder of episodes, or `record`.")
    if path is not None and data.get("record") is not None:
        missing = "" if path.exists() else f", where nothing is (looked for from {Path.cwd()}),"
        raise ConfigError(
            f"data.path is '{path}'{missing} and data.record is given too; one of them is expected. To read the file "
            "write data.record=null, to record leave data.path out."
        )
    if path is not None:
        found = read_episodes(path, data.get("episodes"))
        return as_classes(found) if data.get("discrete") else found
    if data.get("episodes") is not None:
        raise ConfigError("data.episodes is of `path`; beside data.record write data.record.episodes.")
    given = dict(data["record"])
    check_keys(given, IMITATION["data.record"], "data.record")
    check_values(given, "data.record")
    if "env" not in given:
        raise ConfigError("data.record.env must be given: the name of an environment.")
    settings = given.get("settings") or {}
    return list(record(given["env"], given.get("expert", "scripted"), int(given.get("episodes", 20)),
                       int(given.get("seed", 0)), **settings))  # fmt: skip


def new_policy(
    section: Mapping[str, Any], episodes: Sequence[Episode], discrete: bool, window: dict[str, int]
) -> Policy:
    """Return a policy of random weights for some episodes, its normaliser fitted to them.

    Raises:
        ConfigError: a kind or key that is not known, or a normalisation that the kind cannot have.
    """
    known = kinds()
    kind = section.get("kind", "mlp")
    if kind not in known:
        raise ConfigError(f"policy.kind '{kind}' is not known.{did_you_mean(kind, known)} Known: {', '.join(known)}.")
    config_class = known[kind].config_class
    own = (*SIZES[kind], "execute", "ensemble")
    check_keys(section, [*IMITATION["policy"], *SIZES[kind]], "policy")
    check_values(section, "policy")
    sizes = sizes_of(episodes)
    images = {name: list(v.shape[1:]) for name, v in episodes[0].observations.items() if v.ndim == 4}
    size = sizes.pop(ACTION)
    config = config_class(
        numbers=sizes, images=images, action_size=size, discrete=discrete, **window,
        trainwright_version=__version__,
        **{name: value for name, value in section.items() if name in own},
    )  # fmt: skip
    check_policy(section, config)
    with torch.random.fork_rng(enabled=section.get("seed") is not None):
        if section.get("seed") is not None:
            torch.manual_seed(section["seed"])
        policy = known[kind](config)
    masks = section.get("normalization_masks")
    if masks is not None and not isinstance(masks, Mapping):
        raise ConfigError(f"policy.normalization_masks is {masks!r}, but lists of true and false by name are expected.")
    policy.normalizer.fit(episodes, normalization(section, config), masks)
    return policy


def check_policy(section: Mapping[str, Any], config: Any) -> None:
    """Raise a ConfigError for settings of a policy that do not go together."""
    kind, bins = section.get("kind", "mlp"), getattr(config, "bins", 0)
    if config.discrete and kind != "mlp":
        raise ConfigError(f"data.discrete is true, but policy.kind {kind} says numbers; kind mlp says classes.")
    if config.discrete and bins:
        raise ConfigError(
            "policy.bins divides numbers into classes; with data.discrete the actions are classes already."
        )
    if kind == "act" and config.width % config.heads:
        raise ConfigError(f"policy.width {config.width} is not a multiple of policy.heads, {config.heads}.")
    if bins < 0 or bins == 1:
        raise ConfigError(f"policy.bins is {bins}; it is 0, for none, or at least 2.")
    if config.execute is not None and config.ensemble:
        raise ConfigError("policy.execute and policy.ensemble exclude each other: an ensemble asks at every moment.")
    if config.execute is not None and not 1 <= config.execute <= config.chunk:
        raise ConfigError(f"policy.execute is {config.execute}; it is from 1 to data.chunk, {config.chunk}.")


def normalization(section: Mapping[str, Any], config: Any) -> dict[str, str]:
    """Return how every observation and the actions are normalised.

    Raises:
        ConfigError: a kind that is not known, or one that the policy cannot have.
    """
    given = section.get("normalization") or {}
    given = {"default": given} if isinstance(given, str) else dict(given)
    bounded = bool(getattr(config, "bins", 0)) or section.get("kind") == "diffusion"
    usual = "identity" if config.discrete else "min_max" if bounded else given.get("default", "mean_std")
    check_keys(given, ["default", *(config.numbers or {}), ACTION], "policy.normalization")
    if config.discrete and given.get(ACTION, "identity") != "identity":
        raise ConfigError("policy.normalization.action has no effect on discrete actions; leave it out.")
    found = {"default": "mean_std", **given}
    found[ACTION] = given.get(ACTION, usual)
    for name, kind in found.items():
        if kind not in KINDS:
            raise ConfigError(f"policy.normalization.{name} '{kind}' is not known; known: {', '.join(KINDS)}.")
    if bounded and found[ACTION] != "min_max":
        raise ConfigError(f"policy.normalization.action is '{found[ACTION]}'; bins and diffusion need min_max.")
    return found


def build(sections: Mapping[str, Any]) -> PolicyTrainer:
    """Return the Trainer of a file."""
    given = dict(sections.get("train") or {})
    check_values(given, "train")
    if given.get("resume_from_checkpoint") is not None:
        raise ConfigError(
            f"train.resume_from_checkpoint is {given['resume_from_checkpoint']!r}, but a run goes on with --resume, in "
            "its own folder; leave it out."
        )
    made = parts(sections)
    own = {name: given.pop(name) for name in IMITATION["train"] if name in given}
    settings = {"remove_unused_columns": False, "label_names": ["action"], "prediction_loss_only": True,
                "report_to": "none", **given}  # fmt: skip
    if made.held_out is None and made.rollouts is not None:
        raise ConfigError("data.held_out is 0, but rollouts are a part of evaluation; hold some episodes out.")
    check_images(made.policy, sections)
    patience, arguments = own.get("early_stopping_patience"), TrainingArguments(**settings)
    if made.rollouts is not None:
        made.notes.extend(check_times(made.rollouts, arguments))
    trainer = PolicyTrainer(
        made.policy,
        arguments,
        data_collator=Together(int(sections["data"].get("image_shift", 0))),
        train_dataset=made.train,
        eval_dataset=made.held_out,
        rollouts=made.rollouts,
        backbone_learning_rate=own.get("backbone_learning_rate"),
        callbacks=[EarlyStoppingCallback(patience)] if patience is not None else None,
    )
    for note in made.notes:
        trainer.note(note)
    return trainer


def check_times(rollouts: Rollouts, args: TrainingArguments) -> list[str]:
    """Return what to say where no rollout belongs to the training.

    Raises:
        ConfigError: they would be more seldom than they are asked for.
    """
    if args.eval_strategy == "no":
        return ["train.eval_strategy is 'no', so no rollout is made in training: they belong to the evaluation."]
    many, every = rollouts.rollout_steps, args.eval_steps
    if many and args.eval_strategy == "steps" and every and every >= 1 and many % every:
        raise ConfigError(
            f"rollout.rollout_steps is {many}, but rollouts belong to the evaluation, which is every {every:g} steps; "
            "give a multiple."
        )
    return []


def check_images(policy: Policy, sections: Mapping[str, Any]) -> None:
    """Raise a ConfigError for settings of images where there are none."""
    for part, name in (("data", "image_shift"), ("train", "backbone_learning_rate")):
        if (sections.get(part) or {}).get(name) and not policy.config.images:
            raise ConfigError(
                f"{part}.{name} is for images, but the demonstrations see {', '.join(policy.sees)} alone."
            )
