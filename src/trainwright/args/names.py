"""The names that arguments accept, as plain tables: reading them imports neither torch nor transformers.

A test holds every table against the installed libraries.
"""

from __future__ import annotations

from enum import StrEnum


class IntervalStrategy(StrEnum):
    """When to log or evaluate; equal to the plain string, and to transformers' enum of that value."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"


class SaveStrategy(StrEnum):
    """When to write a checkpoint."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"
    BEST = "best"


class HubStrategy(StrEnum):
    """What is pushed to the hub, and when."""

    END = "end"
    EVERY_SAVE = "every_save"
    CHECKPOINT = "checkpoint"
    ALL_CHECKPOINTS = "all_checkpoints"


LAYERS = "layers"  # torch_compile: one by one

SCHEDULERS = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "greedy",
)  # fmt: skip
METRIC_SCHEDULERS = ("reduce_lr_on_plateau", "greedy")
SCHEDULERS_WITHOUT_TOTAL = ("constant", "constant_with_warmup", "inverse_sqrt", *METRIC_SCHEDULERS)

OPTIMIZERS = (
    "adamw_torch", "adamw_torch_fused", "adafactor", "adamw_anyprecision", "adamw_torch_4bit", "adamw_torch_8bit",
    "ademamix", "sgd", "adagrad", "rmsprop", "adamw_bnb_8bit", "adamw_8bit", "ademamix_8bit", "lion_8bit",
    "lion_32bit", "paged_adamw_32bit", "paged_adamw_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit",
    "paged_lion_32bit", "paged_lion_8bit", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit", "galore_adamw",
    "galore_adamw_8bit", "galore_adafactor", "grokadamw", "schedule_free_radam", "schedule_free_adamw",
    "schedule_free_sgd", "apollo_adamw", "stable_adamw",
)  # fmt: skip
OWN_OPTIMIZERS = ("adamw_bf16", "muon")
_OWN_BACKWARD = "takes over the backward pass, which belongs to the engine here; use one of the others, such as"
REFUSED_OPTIMIZERS = {
    "lomo": f"{_OWN_BACKWARD} 'adafactor'",
    "adalomo": f"{_OWN_BACKWARD} 'adafactor'",
    "galore_adamw_layerwise": f"{_OWN_BACKWARD} 'galore_adamw'",
    "galore_adamw_8bit_layerwise": f"{_OWN_BACKWARD} 'galore_adamw_8bit'",
    "galore_adafactor_layerwise": f"{_OWN_BACKWARD} 'galore_adafactor'",
    "apollo_adamw_layerwise": f"{_OWN_BACKWARD} 'apollo_adamw'",
    "adamw_torch_xla": "needs torch_xla, which is not supported; use 'adamw_torch_fused'",
    "adamw_torch_npu_fused": "needs torch_npu, which is not supported; use 'adamw_torch_fused'",
}

SAMPLING = ("random", "sequential", "group_by_length")
LOG_LEVELS = ("detail", "debug", "info", "warning", "error", "critical", "passive")
