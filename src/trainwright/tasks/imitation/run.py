"""A policy's training from one YAML file: `data`, `policy`, `train`, `rollout`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainwright.args.training import TrainingArguments
from trainwright.callbacks.early_stopping import EarlyStoppingCallback
from trainwright.config.sections import check_keys, read_sections
from trainwright.errors import ConfigError, did_you_mean
from trainwright.tasks.imitation.episodes import Episode, read_episodes, split
from trainwright.tasks.imitation.experts import record
from trainwright.tasks.imitation.loading import kinds
from trainwright.tasks.imitation.normalize import ACTION, KINDS, sizes_of
from trainwright.tasks.imitation.policies import Policy
from trainwright.tasks.imitation.rollout import Rollouts
from trainwright.tasks.imitation.trainer import PolicyTrainer
from trainwright.tasks.imitation.windows import Together, Windows

RUN_FILE = "imitation.yaml"
SECTIONS = ("data", "policy", "train", "rollout")
DATA = ("path", "record", "episodes", "held_out", "split_seed", "history", "chunk", "image_shift", "discrete")
POLICY = ("kind", "normalization", "normalization_masks", "seed")
RECORD = ("env", "expert", "episodes", "seed", "settings")
TRAIN = ("early_stopping_patience", "backbone_learning_rate")
_INHERITED = ("numbers", "images", "action_size", "discrete", "history", "chunk")


@dataclass
class Parts:
    """What a file describes: policy, data and how it is tried."""

    policy: Policy
    train: Windows
    held_out: Windows | None
    rollouts: Rollouts | None


def read_file(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the sections of a file with dotted overrides.

    Raises:
        ConfigError: there is no such file, it is no YAML, or it has other sections.
    """
    return {name: section or {} for name, section in read_sections(path, overrides, SECTIONS).items()}


def parts(sections: Mapping[str, Any]) -> Parts:
    """Return what a file describes, the demonstrations recorded first where it says how.

    Raises:
        ConfigError, DataError: a key, a value or data that cannot work.
    """
    data = dict(sections.get("data") or {})
    check_keys(data, DATA, "data")
    episodes = demonstrations(data)
    train, held_out = split(episodes, float(data.get("held_out", 0.1)), int(data.get("split_seed", 0)))
    window = {"history": int(data.get("history", 1)), "chunk": int(data.get("chunk", 1))}
    policy = new_policy(dict(sections.get("policy") or {}), train, bool(data.get("discrete", False)), window)
    rollouts = None
    if sections.get("rollout"):
        names = [field.name for field in dataclasses.fields(Rollouts) if field.init]
        check_keys(sections["rollout"], names, "rollout")
        if "env" not in sections["rollout"]:
            raise ConfigError("rollout.env must be given: the name of an environment.")
        rollouts = Rollouts(**sections["rollout"])
    return Parts(policy, Windows(train, **window), Windows(held_out, **window) if held_out else None, rollouts)


def demonstrations(data: Mapping[str, Any]) -> list[Episode]:
    """Return the episodes of a section `data`: of `path`, or recorded as `record` says."""
    if (data.get("path") is None) == (data.get("record") is None):
        raise ConfigError("data needs either `path`, a file or folder of episodes, or `record`.")
    if data.get("path") is not None:
        return read_episodes(Path(data["path"]).expanduser(), data.get("episodes"))
    given = dict(data["record"])
    check_keys(given, RECORD, "data.record")
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
    own = [name for owner in config_class.__mro__ if owner.__module__.startswith("trainwright")
           for name in vars(owner).get("__annotations__", {}) if name not in _INHERITED]  # fmt: skip
    check_keys(section, [*POLICY, *own], "policy")
    sizes = sizes_of(episodes)
    first = episodes[0].observations
    size = sizes.pop(ACTION)
    config = config_class(
        numbers=sizes, images={name: list(v.shape[1:]) for name, v in first.items() if v.ndim == 4}, action_size=size,
        discrete=discrete, **window, **{name: value for name, value in section.items() if name in own},
    )  # fmt: skip
    with torch.random.fork_rng(enabled=section.get("seed") is not None):
        if section.get("seed") is not None:
            torch.manual_seed(section["seed"])
        policy = known[kind](config)
    policy.normalizer.fit(episodes, normalization(section, config), section.get("normalization_masks"))
    return policy


def normalization(section: Mapping[str, Any], config: Any) -> dict[str, str]:
    """Return how every observation and the actions are normalised.

    Raises:
        ConfigError: a kind that is not known, or one that the policy cannot have.
    """
    given = section.get("normalization") or {}
    given = {"default": given} if isinstance(given, str) else dict(given)
    bounded = bool(getattr(config, "bins", 0)) or section.get("kind") == "diffusion"
    usual = "identity" if config.discrete else "min_max" if bounded else given.get("default", "mean_std")
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
    made = parts(sections)
    given = dict(sections.get("train") or {})
    own = {name: given.pop(name) for name in TRAIN if name in given}
    settings = {"remove_unused_columns": False, "label_names": ["action"], "prediction_loss_only": True,
                "report_to": "none", **given}  # fmt: skip
    if made.held_out is None and made.rollouts is not None:
        raise ConfigError("data.held_out is 0, but rollouts are a part of evaluation; hold some episodes out.")
    patience = own.get("early_stopping_patience")
    return PolicyTrainer(
        made.policy,
        TrainingArguments(**settings),
        data_collator=Together(int(sections["data"].get("image_shift", 0))),
        train_dataset=made.train,
        eval_dataset=made.held_out,
        rollouts=made.rollouts,
        backbone_learning_rate=own.get("backbone_learning_rate"),
        callbacks=[EarlyStoppingCallback(patience)] if patience is not None else None,
    )
