"""One training engine with familiar front doors.

Names are imported when they are first used, so that `import trainwright` costs nothing. Ours come from the modules
of the first table. Every other name that transformers has is transformers' own: models, configurations, tokenizers,
collators, schedules, `pipeline`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
from typing import TYPE_CHECKING, Any

if importlib.util.find_spec("fcntl") is None:
    raise ImportError(
        "trainwright runs on Linux and macOS; on Windows, use it inside WSL 2 (https://learn.microsoft.com/windows/wsl)."
    )

__version__ = "0.1.0"

if TYPE_CHECKING:  # our names as a type checker sees them; those of transformers it finds in transformers alone
    from trainwright.args.names import IntervalStrategy as IntervalStrategy
    from trainwright.args.names import SaveStrategy as SaveStrategy
    from trainwright.args.training import Seq2SeqTrainingArguments as Seq2SeqTrainingArguments
    from trainwright.args.training import TrainingArguments as TrainingArguments
    from trainwright.callbacks.base import CallbackHandler as CallbackHandler
    from trainwright.callbacks.base import TrainerCallback as TrainerCallback
    from trainwright.callbacks.early_stopping import EarlyStoppingCallback as EarlyStoppingCallback
    from trainwright.callbacks.flow import DefaultFlowCallback as DefaultFlowCallback
    from trainwright.callbacks.progress import PrinterCallback as PrinterCallback
    from trainwright.callbacks.progress import ProgressCallback as ProgressCallback
    from trainwright.checkpoint.parts import Stateful as Stateful
    from trainwright.data.loaders.collate import default_data_collator as default_data_collator
    from trainwright.errors import CheckpointError as CheckpointError
    from trainwright.errors import ConfigError as ConfigError
    from trainwright.errors import DataError as DataError
    from trainwright.errors import DivergenceError as DivergenceError
    from trainwright.errors import Interrupted as Interrupted
    from trainwright.errors import JobError as JobError
    from trainwright.errors import SaveError as SaveError
    from trainwright.objectives.objective import Loss as Loss
    from trainwright.objectives.objective import Objective as Objective
    from trainwright.parallel.deferred import deferred_init as deferred_init
    from trainwright.parallel.strategy import Strategy as Strategy
    from trainwright.randomness import set_seed as set_seed
    from trainwright.state import BestRun as BestRun
    from trainwright.state import EvalLoopOutput as EvalLoopOutput
    from trainwright.state import EvalPrediction as EvalPrediction
    from trainwright.state import PredictionOutput as PredictionOutput
    from trainwright.state import TrainerControl as TrainerControl
    from trainwright.state import TrainerState as TrainerState
    from trainwright.state import TrainOutput as TrainOutput
    from trainwright.trackers.tracker import Tracker as Tracker
    from trainwright.trainer.seq2seq import Seq2SeqTrainer as Seq2SeqTrainer
    from trainwright.trainer.trainer import Trainer as Trainer

    BaseTrainer = Trainer

_OURS = {
    "Trainer": "trainer.trainer",
    "Seq2SeqTrainer": "trainer.seq2seq",
    "TrainingArguments": "args.training",
    "Seq2SeqTrainingArguments": "args.training",
    "IntervalStrategy": "args.names",
    "SaveStrategy": "args.names",
    "TrainerCallback": "callbacks.base",
    "CallbackHandler": "callbacks.base",
    "DefaultFlowCallback": "callbacks.flow",
    "EarlyStoppingCallback": "callbacks.early_stopping",
    "ProgressCallback": "callbacks.progress",
    "PrinterCallback": "callbacks.progress",
    "TrainerState": "state",
    "TrainerControl": "state",
    "EvalPrediction": "state",
    "EvalLoopOutput": "state",
    "PredictionOutput": "state",
    "TrainOutput": "state",
    "BestRun": "state",
    "Tracker": "trackers.tracker",
    "Objective": "objectives.objective",
    "Loss": "objectives.objective",
    "Stateful": "checkpoint.parts",
    "Strategy": "parallel.strategy",
    "deferred_init": "parallel.deferred",
    "set_seed": "randomness",
    "default_data_collator": "data.loaders.collate",
    "ConfigError": "errors",
    "DataError": "errors",
    "CheckpointError": "errors",
    "DivergenceError": "errors",
    "Interrupted": "errors",
    "JobError": "errors",
    "SaveError": "errors",
}
_SAME = {"BaseTrainer": ("trainer.trainer", "Trainer")}
_TRANSFORMERS = (  # what most scripts use, for `dir` and `import *`; the others are found as well
    "AutoConfig",
    "AutoFeatureExtractor",
    "AutoImageProcessor",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForImageClassification",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForQuestionAnswering",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoProcessor",
    "AutoTokenizer",
    "DataCollatorForLanguageModeling",
    "DataCollatorForSeq2Seq",
    "DataCollatorForTokenClassification",
    "DataCollatorWithFlattening",
    "DataCollatorWithPadding",
    "GenerationConfig",
    "HfArgumentParser",
    "PreTrainedModel",
    "PreTrainedTokenizerFast",
    "get_constant_schedule",
    "get_constant_schedule_with_warmup",
    "get_cosine_schedule_with_warmup",
    "get_cosine_with_hard_restarts_schedule_with_warmup",
    "get_inverse_sqrt_schedule",
    "get_linear_schedule_with_warmup",
    "get_polynomial_decay_schedule_with_warmup",
    "get_scheduler",
    "get_wsd_schedule",
)

_NOT_THEIRS = ("trainer", "training_args")
"""How transformers' modules around its Trainer begin; whoever asks us for one would get the other Trainer."""

if not TYPE_CHECKING:  # a name that is not above is a mistake to a type checker
    __all__ = ["__version__", *_OURS, *_SAME, *_TRANSFORMERS]

    def __getattr__(name: str) -> Any:
        if name in _SAME or name in _OURS:
            module, attribute = _SAME.get(name) or (_OURS[name], name)
            return getattr(importlib.import_module(f"trainwright.{module}"), attribute)
        if name in _modules():
            return importlib.import_module(f"trainwright.{name}")
        if name.startswith("_"):
            raise AttributeError(f"module 'trainwright' has no attribute '{name}'")
        theirs = importlib.import_module("transformers")
        if not name.startswith(_NOT_THEIRS) and hasattr(theirs, name):
            return getattr(theirs, name)
        from trainwright.errors import did_you_mean

        names = [*__all__, *(one for one in dir(theirs) if not one.startswith(_NOT_THEIRS))]
        near = did_you_mean(name, names) or did_you_mean(name, _modules())
        # with a name and no object, or Python would add a suggestion of its own
        raise AttributeError(f"module 'trainwright' has no attribute '{name}'.{near}", name=name)

    def __dir__() -> list[str]:
        return sorted({*__all__, *_modules()})


@functools.cache
def _modules() -> frozenset[str]:
    """Return the names of our packages and modules, which go before what transformers calls the same."""
    return frozenset(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
