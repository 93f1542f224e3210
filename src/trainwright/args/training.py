"""`TrainingArguments`: transformers' names and defaults on dataclasses of our own, composed from groups."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

from trainwright.args import launched, normalize
from trainwright.args.aliases import translate
from trainwright.args.groups import execution, monitoring, optimization, saving
from trainwright.args.groups.option import option
from trainwright.args.process import OfProcess
from trainwright.args.setters import Setters
from trainwright.args.validate import faults, validate


class ArgumentsType(type):
    """Translates old keyword names before the dataclass's own `__init__`, in subclasses too."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        known = [f.name for f in fields(cls)]  # type: ignore[arg-type]  # all its classes are dataclasses
        return super().__call__(*args, **translate(kwargs, known, cls.__name__))


@dataclass(repr=False)
class ArgumentFields(
    execution.Debugging,
    execution.Distribution,
    execution.DataLoading,
    execution.Hardware,
    execution.Reproducibility,
    saving.Hub,
    saving.Resuming,
    monitoring.BestModel,
    saving.Saving,
    monitoring.Evaluation,
    monitoring.Tracking,
    monitoring.Logging,
    optimization.Compute,
    optimization.Precision,
    optimization.Stability,
    optimization.OptimizerChoice,
    optimization.LearningRate,
    optimization.Duration,
    saving.Output,
):
    """The fields of TrainingArguments, without its checks."""


@dataclass(repr=False)
class TrainingArguments(ArgumentFields, OfProcess, Setters, metaclass=ArgumentsType):
    """All settings of a run. Every field is described in docs/arguments.md.

    Raises:
        ConfigError: at construction, listing every argument that cannot work.
    """

    def __post_init__(self) -> None:
        normalize.normalize(self)
        validate(self)

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Return the steps of warm-up in a run of `num_training_steps`."""
        return normalize.warmup_steps(self, num_training_steps)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, with tokens hidden."""
        plain = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        return {name: f"<{name.upper()}>" if name.endswith("_token") and v else v for name, v in plain.items()}

    def to_json_string(self) -> str:
        """Return `to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, default=str)

    def to_sanitized_dict(self) -> dict[str, Any]:
        """Return values that every tracker takes: numbers, texts and truth values."""
        everything = {**self.to_dict(), "train_batch_size": self.train_batch_size}
        return {name: v if isinstance(v, bool | int | float | str) else str(v) for name, v in everything.items()}

    def __repr__(self) -> str:
        lines = [f"  {name}={value!r}," for name, value in sorted(self.to_dict().items())]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])


@dataclass(repr=False)
class Seq2SeqTrainingArguments(TrainingArguments):
    """TrainingArguments with the settings of evaluation by generation."""

    sortish_sampler: bool = option(False, "Not supported; use train_sampling_strategy='group_by_length'.")
    predict_with_generate: bool = option(False, "Generate in evaluation and prediction.")
    generation_max_length: int | None = option(None, "Longest generated sequence.")
    generation_num_beams: int | None = option(None, "Beams of the generation.")
    generation_config: Any = option(None, "A GenerationConfig, or a folder that holds one.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sortish_sampler:
            from trainwright.errors import ConfigError

            raise ConfigError("sortish_sampler=True is not supported; use train_sampling_strategy='group_by_length'.")


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value


def faults_of(values: dict[str, Any]) -> list[str]:
    """Return one sentence for every fault that TrainingArguments with these values would have."""
    args = TrainingArguments.__new__(TrainingArguments)
    ArgumentFields.__init__(args, **values)
    normalize.normalize(args)
    return faults(args)


def saved_arguments(args: Any) -> dict[str, Any]:
    """Return the arguments as they are kept in a checkpoint: plain values, without tokens."""
    names = dict.fromkeys(f.name for kind in (ArgumentFields, args) for f in fields(kind) if "token" not in f.name)
    values = {name: _plain(getattr(args, name)) for name in names}
    values["accelerator_config"] = launched.chosen(args) or None  # transformers fills in an object of defaults
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain
