"""`TrainingArguments`: transformers' names and defaults on dataclasses of our own, composed from groups."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

from trainwright import compat
from trainwright.args import execution, monitoring, normalize, optimization, saving
from trainwright.args.aliases import translate
from trainwright.args.option import option
from trainwright.args.validate import faults, validate
from trainwright.world import choose_device, current_world

if TYPE_CHECKING:
    import torch


class ArgumentsType(type):
    """Translates old keyword names before the dataclass's own `__init__`, in subclasses too."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
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
class TrainingArguments(ArgumentFields, metaclass=ArgumentsType):
    """All settings of a run. Every field is described in docs/arguments.md.

    Raises:
        ConfigError: at construction, listing every argument that cannot work.
    """

    def __post_init__(self) -> None:
        normalize.normalize(self)
        validate(self)

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return choose_device(current_world(), self.use_cpu)

    @property
    def n_gpu(self) -> int:
        """GPUs used by this process: 1 or 0, never several."""
        return int(self.device.type == "cuda")

    @property
    def world_size(self) -> int:
        """Number of processes of the run."""
        return current_world().size

    @property
    def process_index(self) -> int:
        """Rank of this process."""
        return current_world().rank

    @property
    def local_process_index(self) -> int:
        """Rank of this process on its machine."""
        return current_world().local_rank

    @property
    def train_batch_size(self) -> int:
        """Rows of one training micro-batch of this process."""
        return self.per_device_train_batch_size

    @property
    def eval_batch_size(self) -> int:
        """Rows of one evaluation batch of this process."""
        return self.per_device_eval_batch_size

    @property
    def should_log(self) -> bool:
        """Whether this process reports to trackers."""
        world = current_world()
        return world.is_local_main if self.log_on_each_node else world.is_main

    @property
    def should_save(self) -> bool:
        """Whether this process writes files."""
        world = current_world()
        return world.is_local_main if self.save_on_each_node else world.is_main

    @property
    def ddp_timeout_delta(self) -> timedelta:
        """`ddp_timeout` as a timedelta."""
        return timedelta(seconds=self.ddp_timeout)

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
    return value


def adopt(foreign: Any) -> TrainingArguments:
    """Return our arguments with the values of another library's dataclass of the same field names.

    Only `restore_callback_states_from_checkpoint` is not taken: their default cannot be told from a choice.

    Fields that are not ours (a user's own, in a subclass of transformers' TrainingArguments) become attributes.
    """
    kind = Seq2SeqTrainingArguments if hasattr(foreign, "predict_with_generate") else TrainingArguments
    known = {f.name for f in fields(kind)}
    values = {f.name: getattr(foreign, f.name) for f in fields(foreign)}
    values.pop("accelerator_config", None)  # transformers fills in an object where the user gave nothing
    if values.get("fsdp_config") == compat.NO_FSDP:
        values.pop("fsdp_config")
    values.pop("restore_callback_states_from_checkpoint", None)  # its default, False, is not ours
    adopted = kind(**{name: value for name, value in values.items() if name in known})
    for name in values.keys() - known:
        setattr(adopted, name, values[name])
    return adopted


def faults_of(values: dict[str, Any]) -> list[str]:
    """Return one sentence for every fault that TrainingArguments with these values would have."""
    args = TrainingArguments.__new__(TrainingArguments)
    ArgumentFields.__init__(args, **values)
    normalize.normalize(args)
    return faults(args)


def saved_arguments(args: TrainingArguments) -> dict[str, Any]:
    """Return the arguments as they are kept in a checkpoint: plain values, without tokens."""
    return json.loads(json.dumps({k: _plain(v) for k, v in asdict(args).items() if "token" not in k}, default=str))
