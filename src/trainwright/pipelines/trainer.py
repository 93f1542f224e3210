"""`TrainerPipeline`: trains what the other two built, from `cfg.train`, and goes on with a run by its folder alone."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trainwright.args.training import TrainingArguments
from trainwright.callbacks.beginning import BeginningCallback
from trainwright.checkpoint.check import newest_valid
from trainwright.checkpoint.layout import holds_any
from trainwright.config.keys.task_uses import ALGEBRA, MODELS, use
from trainwright.config.params import ARGUMENTS
from trainwright.config.reading.ranges import check_values
from trainwright.config.reading.writing import write_whole
from trainwright.config.sections import check_keys, plain, required
from trainwright.errors import CheckpointError, ConfigError
from trainwright.pipelines.io import ABOUT, IOPipeline, complete
from trainwright.pipelines.model import ModelPipeline
from trainwright.session.generation_settings import Generation
from trainwright.tasks.algebra.batches import batches_for
from trainwright.tasks.algebra.trainer import Trainer

# CALT's names, by those of TrainingArguments
RENAMED = {
    "save_dir": "output_dir",
    "batch_size": "per_device_train_batch_size",
    "test_batch_size": "per_device_eval_batch_size",
    "warmup_ratio": "warmup_steps",
    "optimizer": "optim",
    "num_workers": "dataloader_num_workers",
}
DEFAULTS = {
    "eval_strategy": "steps",
    "eval_steps": 1000,
    "save_strategy": "steps",
    "save_steps": 1000,
    "save_total_limit": 1,
    "logging_steps": 50,
    "label_names": ["labels"],
    "remove_unused_columns": False,
    "disable_tqdm": True,
    "report_to": "none",
}
REQUIRED = ("num_train_epochs", "learning_rate", "batch_size", "test_batch_size")
TRAIN, DATA, LEXER = "train.yaml", "data.yaml", "lexer.yaml"


class TrainerPipeline:
    """Trains a model on problems.

    Attributes:
        config: the section `train`.
        trainer: the Trainer, after `build`.
    """

    def __init__(
        self,
        config: Any,
        model: Any = None,
        tokenizer: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        data_collator: Any = None,
        wandb_config: Any = None,
        io_dict: dict[str, Any] | None = None,
    ) -> None:
        given = io_dict or {}
        self.config = plain(config, "cfg.train")
        self.model = model
        self.tokenizer: Any = tokenizer or given.get("tokenizer")
        self.train_dataset = given.get("train_dataset") if train_dataset is None else train_dataset
        self.eval_dataset = given.get("test_dataset") if eval_dataset is None else eval_dataset
        self.data_collator = data_collator or given.get("data_collator")
        wandb = wandb_config if wandb_config is not None else self.config.get("wandb")
        self.wandb_config = plain(wandb, "cfg.train.wandb") if wandb is not None else None
        self.trainer: Trainer | None = None
        self.resumes = False

    @classmethod
    def from_io_dict(
        cls, config: Any, model: Any, io_dict: dict[str, Any], wandb_config: Any = None
    ) -> TrainerPipeline:
        """Return the pipeline for a model and the result of `IOPipeline.build()`."""
        return cls(config, model, wandb_config=wandb_config, io_dict=io_dict)

    def build(self) -> TrainerPipeline:
        """Make the Trainer; return the pipeline.

        Raises:
            ConfigError: a key that is not known or missing, or values that cannot work.
        """
        self.trainer = Trainer(
            self.model,
            arguments(self.config, self.wandb_config),
            data_collator=batches_for(self.model, self.tokenizer, self.data_collator),
            train_dataset=self.train_dataset,
            eval_dataset=self.eval_dataset,
            processing_class=self.tokenizer,
            callbacks=[BeginningCallback(self._describe)],
            generation=Generation(
                int(self.config.get("generation_max_length", 512)),
                int(self.config.get("generation_num_beams", 1)),
                self.config.get("verify_generation", "failures"),
                self._checker(),
            ),
        )
        return self

    @property
    def run_folder(self) -> Path:
        """The run's folder."""
        return self._built().run_folder

    def _checker(self) -> Any:
        """Return the checker of the task that the section `data` names."""
        data = getattr(self.train_dataset, "description", None)
        return data["checker"] if data else None

    def train(self, resume_from_checkpoint: str | bool | None = None) -> Any:
        """Train, and leave a folder that is complete; a resumed pipeline goes on from its newest checkpoint.

        Args:
            resume_from_checkpoint: a checkpoint, or True for the newest one of the folder.
        """
        trainer = self._built()
        wanted: str | bool | None = self.resumes if resume_from_checkpoint is None else resume_from_checkpoint
        if wanted is True and not holds_any(trainer.run_folder):
            wanted = None
        output = trainer.train(resume_from_checkpoint=wanted or None)
        self._save_parts(trainer.run_folder)
        return output

    def save_model(self, output_dir: str | None = None) -> None:
        """Write model and tokenizer into a folder, the run's own when none is given."""
        trainer = self._built()
        trainer.save_model(output_dir or str(trainer.run_folder))

    def evaluate_and_save_generation(self, max_length: int | None = None) -> float:
        """Generate for the test data, save what was written, and return the share of exact matches.

        Args:
            max_length: tokens that are generated at most, in place of `generation_max_length`.
        """
        return self._built().evaluate_and_save_generation(max_length=max_length)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate, by generation too; return the metrics."""
        found: dict[str, float] = self._built().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        return found

    def __getattr__(self, name: str) -> Any:
        """Return what the trainer has, once it is built."""
        trainer = self.__dict__.get("trainer")
        if trainer is None or name.startswith("__"):
            unbuilt = "; the trainer is not built yet: call build() first" if trainer is None else ""
            raise AttributeError(f"'TrainerPipeline' object has no attribute '{name}'{unbuilt}")
        return getattr(trainer, name)

    @classmethod
    def resume_from_checkpoint(cls, save_dir: str, resume_from_checkpoint: bool | str = True) -> TrainerPipeline:
        """Return the pipeline of a run's folder; see `load_from_checkpoint`."""
        return load_from_checkpoint(save_dir, resume_from_checkpoint)[2]

    def _built(self) -> Trainer:
        if self.trainer is None:
            raise ConfigError("The trainer is not built yet; call build() first.")
        return self.trainer

    def _describe(self) -> None:
        """Write what a run needs to be built again: its configuration with absolute paths, lexer, and hashes."""
        trainer, data = self._built(), getattr(self.train_dataset, "description", None)
        folder = trainer.run_folder
        folder.mkdir(parents=True, exist_ok=True)
        if data is None or not hasattr(self.model, "pipeline_config"):
            return
        section = dict(data["config"])
        write_whole(folder / LEXER, yaml.safe_dump(complete(section["lexer_config"]), sort_keys=False))
        section["lexer_config"] = str((folder / LEXER).resolve())
        for name, value in section.items():
            if _is_path(name) and value is not None:
                section[name] = str(Path(value).expanduser().resolve())
        train = {**self.config, "save_dir": str(folder.resolve())}
        train.pop("output_dir", None)
        whole = {"data": section, "model": self.model.pipeline_config, "train": train}
        write_whole(folder / TRAIN, yaml.safe_dump(whole, sort_keys=False))
        write_whole(folder / DATA, yaml.safe_dump(section, sort_keys=False))
        about = {"hashes": data["hashes"], "shared_problems": data["shared_problems"]}
        write_whole(folder / ABOUT, json.dumps(about, indent=1) + "\n")

    def _save_parts(self, folder: Path) -> None:
        trainer = self._built()
        trainer.save_model(str(folder / "model"))
        if trainer.strategy.is_main:
            self.tokenizer.save_pretrained(folder / "tokenizer")


def arguments(config: dict[str, Any], wandb: dict[str, Any] | None) -> TrainingArguments:
    """Return the arguments that a section `train` stands for.

    Raises:
        ConfigError: a key that is not known or missing, two names of one thing, or values that cannot work.
    """
    check_keys(config, [*ALGEBRA["train"], *ARGUMENTS], "cfg.train")
    check_values(config, "cfg.train")
    for sentence in use(config, "train", MODELS[0]):
        print(f"Note: {sentence}", flush=True)
    required(config, [name for name in REQUIRED if RENAMED.get(name, name) not in config], "cfg.train")
    values: dict[str, Any] = dict(DEFAULTS)
    for name, value in config.items():
        if value is None or (name not in RENAMED and name not in ARGUMENTS):
            continue
        if name in RENAMED and RENAMED[name] in config:
            raise ConfigError(f"cfg.train: '{name}' and '{RENAMED[name]}' are two names of one thing; give only one.")
        # YAML 1.1 reads a bare no as false
        values[RENAMED.get(name, name)] = "no" if value is False and name.endswith("_strategy") else value
    values.setdefault("output_dir", "tmp")
    if wandb is not None:
        values |= _wandb(config, wandb)
    return TrainingArguments(**values)


def _wandb(config: dict[str, Any], wandb: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that `train.wandb` stands for; group and tags are where wandb looks for them.

    Raises:
        ConfigError: a key that is not known, or two names of one thing.
    """
    check_keys(wandb, ("project", "group", "name", "no_wandb", "tags"), "cfg.train.wandb")
    if wandb.get("no_wandb", False):
        return {}
    values = {"report_to": "wandb", "run_name": wandb.get("name"), "project": wandb.get("project")}
    for name, own in zip(values, ("wandb", "wandb.name", "wandb.project"), strict=True):
        if values[name] is not None and config.get(name) is not None:
            raise ConfigError(f"cfg.train: '{own}' and '{name}' are two names of one thing; give only one.")
    tags = wandb.get("tags") or ()
    tags = tags if isinstance(tags, str) else ",".join(map(str, tags))
    for variable, value in (("WANDB_RUN_GROUP", wandb.get("group")), ("WANDB_TAGS", tags)):
        if value:
            os.environ[variable] = str(value)
    given = {name: value for name, value in values.items() if value is not None}
    return given if config.get("project") is not None else {"project": "trainwright", **given}


def load_from_checkpoint(
    save_dir: str,
    resume_from_checkpoint: bool | str = True,
    data: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
) -> tuple[IOPipeline, Any, TrainerPipeline]:
    """Return (io_pipeline, model, trainer_pipeline) of a run's folder.

    The pipeline's `train()` goes on where the run stopped: step, optimizer, schedule and data order.

    Args:
        save_dir: the run's folder.
        resume_from_checkpoint: "weights" begins at step 0 with the run's weights, False with random ones.
        data: says where the files of problems are now; where it does not, they are where the run began with them.
        train: the section `train` of today; that of the run's beginning when not given.

    Raises:
        CheckpointError: the folder is none of a run, or its data have changed since.
    """
    folder = Path(save_dir).expanduser().resolve()
    if not (folder / TRAIN).is_file():
        raise CheckpointError(f"'{save_dir}' is no run's folder: it holds no {TRAIN}.")
    whole = yaml.safe_load((folder / TRAIN).read_text(encoding="utf-8"))
    whole["data"]["lexer_config"] = str(folder / LEXER)
    if train is not None:
        whole["train"] = {name: value for name, value in train.items() if name != "output_dir"}
    whole["train"]["save_dir"] = str(folder)
    for name, value in whole["data"].items():
        given = (data or {}).get(name)
        if _is_path(name) and given is not None and (Path(given).is_file() or not Path(value or "").is_file()):
            whole["data"][name] = given
    io_pipeline = IOPipeline.from_config(whole["data"])
    io_dict = io_pipeline.build()
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    goes_on = resume_from_checkpoint is True
    if goes_on and io_dict["train_dataset"].description["hashes"] != about["hashes"]:
        raise CheckpointError(
            f"The data of '{save_dir}' have changed since the run began, so it cannot go on with the same rows. Put "
            "the files back, or begin anew with resume_from_checkpoint='weights' or False."
        )
    model = ModelPipeline.from_io_dict(whole["model"], io_dict).build()
    weights = _weights(folder) if resume_from_checkpoint else None
    if resume_from_checkpoint == "weights" and weights is None:
        raise CheckpointError(
            f"'{save_dir}' holds no weights yet; begin with random ones: resume_from_checkpoint=False."
        )
    if weights is not None:
        model = _restored(model, weights)
    pipeline = TrainerPipeline.from_io_dict(copy.deepcopy(whole["train"]), model, io_dict)
    pipeline.resumes = goes_on
    return io_pipeline, model, pipeline


def _is_path(name: str) -> bool:
    """Whether a key of the section `data` names a file of problems."""
    return name.endswith(("dataset_path", "dataset_jsonl", "dataset_pickle"))


def _restored(new: Any, weights: Path) -> Any:
    """Return the model of a folder of weights, which its own configuration describes: defaults may have changed."""
    model = type(new).from_pretrained(weights)
    model.pipeline_config, model.config._name_or_path = new.pipeline_config, new.config._name_or_path
    return model


def _weights(folder: Path) -> Path | None:
    """Return where a run's newest weights are."""
    return folder / "model" if (folder / "model").is_dir() else newest_valid(folder)[0]
