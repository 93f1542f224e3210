"""`TrainerPipeline`: trains what the other two built, from `cfg.train`, and goes on with a run by its folder alone."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trainwright.args.training import TrainingArguments
from trainwright.checkpoint.check import newest_valid
from trainwright.checkpoint.folder import holds_any
from trainwright.config.sections import check_keys, plain, required
from trainwright.config.translate import ARGUMENTS
from trainwright.engine.generation import Generation
from trainwright.engine.trainer import Trainer
from trainwright.errors import CheckpointError, ConfigError
from trainwright.pipelines.io import IOPipeline
from trainwright.pipelines.model import ModelPipeline
from trainwright.tasks.algebra.batches import DecoderBatch, EncoderDecoderBatch
from trainwright.tasks.algebra.metrics import argmax_of_logits, shifted_argmax, token_metrics

# CALT's names, by those of TrainingArguments; every other key of `cfg.train` is an argument by its own name
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
OWN = ("wandb", "verify_generation", "generation_max_length", "generation_num_beams")
NO_LONGER = ("save_safetensors",)
REQUIRED = ("num_train_epochs", "learning_rate", "batch_size", "test_batch_size")
TRAIN, DATA, LEXER, ABOUT = "train.yaml", "data.yaml", "lexer.yaml", "pipeline.json"


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
        encoder = getattr(getattr(self.model, "config", None), "is_encoder_decoder", True)
        self.trainer = Trainer(
            self.model,
            arguments(self.config, self.wandb_config),
            data_collator=self.data_collator if encoder else self._for_decoder(),
            train_dataset=self.train_dataset,
            eval_dataset=self.eval_dataset,
            processing_class=self.tokenizer,
            compute_metrics=token_metrics,
            preprocess_logits_for_metrics=argmax_of_logits if encoder else shifted_argmax,
        )
        self.trainer.generation = Generation(
            int(self.config.get("generation_max_length", 512)),
            int(self.config.get("generation_num_beams", 1)),
            self.config.get("verify_generation", "failures"),
            self._checker(),
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

    def _for_decoder(self) -> Any:
        """Return the collator for a model without an encoder, in place of the one that `IOPipeline` makes."""
        if not isinstance(self.data_collator, EncoderDecoderBatch):
            return self.data_collator
        return DecoderBatch(self.tokenizer.pad_token_id, self.tokenizer.sep_token_id)

    def train(self, resume_from_checkpoint: str | bool | None = None) -> Any:
        """Train, and leave a folder that is complete; a resumed pipeline goes on from its newest checkpoint.

        Args:
            resume_from_checkpoint: a checkpoint, or True for the newest one of the folder.
        """
        trainer = self._built()
        wanted: str | bool | None = self.resumes if resume_from_checkpoint is None else resume_from_checkpoint
        if wanted is True and not holds_any(trainer.run_folder):
            wanted = None
        trainer.strategy.on_main(self._describe)
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
        lexer = section["lexer_config"]
        if isinstance(lexer, dict):
            (folder / LEXER).write_text(yaml.safe_dump(lexer, sort_keys=False), encoding="utf-8")
        elif Path(lexer).resolve() != (folder / LEXER).resolve():
            shutil.copy(Path(lexer).expanduser(), folder / LEXER)
        section["lexer_config"] = str((folder / LEXER).resolve())
        for name, value in section.items():
            if _is_path(name) and value is not None:
                section[name] = str(Path(value).expanduser().resolve())
        train = {**self.config, "save_dir": str(folder.resolve())}
        train.pop("output_dir", None)
        whole = {"data": section, "model": self.model.pipeline_config, "train": train}
        (folder / TRAIN).write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
        (folder / DATA).write_text(yaml.safe_dump(section, sort_keys=False), encoding="utf-8")
        about = {"hashes": data["hashes"], "shared_problems": data["shared_problems"]}
        (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

    def _save_parts(self, folder: Path) -> None:
        trainer = self._built()
        trainer.save_model(str(folder / "model"))
        if trainer.strategy.world.is_main:
            self.tokenizer.save_pretrained(folder / "tokenizer")


def arguments(config: dict[str, Any], wandb: dict[str, Any] | None) -> TrainingArguments:
    """Return the arguments that a section `train` stands for.

    Raises:
        ConfigError: a key that is not known or missing, two names of one thing, or values that cannot work.
    """
    check_keys(config, [*RENAMED, *OWN, *NO_LONGER, *ARGUMENTS], "cfg.train")
    required(config, [name for name in REQUIRED if RENAMED.get(name, name) not in config], "cfg.train")
    values: dict[str, Any] = dict(DEFAULTS)
    for name, value in config.items():
        if name in OWN or name in NO_LONGER or value is None:
            continue
        if name in RENAMED and RENAMED[name] in config:
            raise ConfigError(f"cfg.train: '{name}' and '{RENAMED[name]}' are two names of one thing; give only one.")
        # YAML 1.1 reads a bare no as false
        values[RENAMED.get(name, name)] = "no" if value is False and name.endswith("_strategy") else value
    values.setdefault("output_dir", "tmp")
    if wandb is not None and not wandb.get("no_wandb", False) and "report_to" not in config:
        check_keys(wandb, ("project", "group", "name", "no_wandb", "tags"), "cfg.train.wandb")
        values |= {"report_to": "wandb", "run_name": wandb.get("name")}
        values["project"] = wandb.get("project") or "trainwright"
    return TrainingArguments(**values)


def load_from_checkpoint(
    save_dir: str, resume_from_checkpoint: bool | str = True, data: Mapping[str, Any] | None = None
) -> tuple[IOPipeline, Any, TrainerPipeline]:
    """Return (io_pipeline, model, trainer_pipeline) of a run's folder.

    The pipeline's `train()` goes on where the run stopped: step, optimizer, schedule and data order.

    Args:
        save_dir: the run's folder.
        resume_from_checkpoint: "weights" begins at step 0 with the run's weights, False with random ones.
        data: says where the files of problems are, if they are no longer where the run began with them.

    Raises:
        CheckpointError: the folder is none of a run, or its data have changed since.
    """
    folder = Path(save_dir).expanduser().resolve()
    if not (folder / TRAIN).is_file():
        raise CheckpointError(f"'{save_dir}' is no run's folder: it holds no {TRAIN}.")
    whole = yaml.safe_load((folder / TRAIN).read_text(encoding="utf-8"))
    whole["data"]["lexer_config"] = str(folder / LEXER)
    whole["train"]["save_dir"] = str(folder)
    for name, value in whole["data"].items():
        if _is_path(name) and value is not None and not Path(value).is_file():
            whole["data"][name] = (data or {}).get(name) or value
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
        model.load_state_dict(type(model).from_pretrained(weights).state_dict())
    pipeline = TrainerPipeline.from_io_dict(copy.deepcopy(whole["train"]), model, io_dict)
    pipeline.resumes = goes_on
    return io_pipeline, model, pipeline


def _is_path(name: str) -> bool:
    """Whether a key of the section `data` names a file of problems."""
    return name.endswith(("dataset_path", "dataset_jsonl"))


def _weights(folder: Path) -> Path | None:
    """Return where a run's newest weights are."""
    return folder / "model" if (folder / "model").is_dir() else newest_valid(folder)[0]
