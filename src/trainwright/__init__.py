"""One training engine with familiar front doors.

Names are imported when they are first used, so that `import trainwright` costs nothing. Ours come from the modules
of the first table; models, tokenizers, collators and schedules are transformers' own, by the second.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

if importlib.util.find_spec("fcntl") is None:
    raise ImportError(
        "trainwright runs on Linux and macOS; on Windows, use it inside WSL 2 (https://learn.microsoft.com/windows/wsl)."
    )

__version__ = "0.1.0"

_OURS = {
    "Trainer": "engine.trainer",
    "Seq2SeqTrainer": "engine.seq2seq",
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
    "set_seed": "randomness",
    "default_data_collator": "data.collate",
    "ConfigError": "errors",
    "DataError": "errors",
    "CheckpointError": "errors",
    "DivergenceError": "errors",
    "Interrupted": "errors",
    "JobError": "errors",
    "SaveError": "errors",
}
_SAME = {"BaseTrainer": ("engine.trainer", "Trainer")}
_TRANSFORMERS = (
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

__all__ = ["__version__", *_OURS, *_SAME, *_TRANSFORMERS]


def __getattr__(name: str) -> Any:
    if name in _TRANSFORMERS:
        return getattr(importlib.import_module("transformers"), name)
    module, attribute = _SAME.get(name, (_OURS.get(name), name))
    if module is None:
        raise AttributeError(f"module 'trainwright' has no attribute '{name}'")
    return getattr(importlib.import_module(f"trainwright.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
