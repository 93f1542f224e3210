"""Which packages a file's settings need, where they are not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from trainwright.args.names import OPTIMIZERS
from trainwright.config.methods import Fault
from trainwright.config.params import TrainingParams

# Packages of optimizers, by how these are called, and the extra of ours that has it.
_OPTIMIZERS = (
    ("galore", "galore_torch", ""), ("apollo", "apollo_torch", ""), ("grokadamw", "grokadamw", ""),
    ("schedule_free", "schedulefree", ""), ("stable_adamw", "optimi", ""), ("adamw_anyprecision", "torchdistx", ""),
    ("adamw_torch_4bit", "torchao", ""), ("adamw_torch_8bit", "torchao", ""), ("adamw_bnb", "bitsandbytes", "quant"),
    ("adamw_8bit", "bitsandbytes", "quant"), ("ademamix", "bitsandbytes", "quant"), ("lion", "bitsandbytes", "quant"),
    ("paged", "bitsandbytes", "quant"), ("rmsprop_bnb", "bitsandbytes", "quant"),
)  # fmt: skip
_TRACKERS = (  # whose package has their name
    "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "mlflow", "neptune", "swanlab", "tensorboard", "trackio",
    "wandb",
)  # fmt: skip
_PIP = {"optimi": "torch-optimi", "galore_torch": "galore-torch", "apollo_torch": "apollo-torch"}


def missing(package: str, extra: str, path: str, what: str) -> Iterator[Fault]:
    """Yield that a package is not installed, if so.

    Args:
        package: as it is imported.
        extra: of ours that has it, or empty.
        path: of the setting that needs it.
        what: that setting, in words.
    """
    if importlib.util.find_spec(package) is None:
        command = f"pip install 'trainwright[{extra}]'" if extra else f"pip install {_PIP.get(package, package)}"
        yield path, f"{what} needs the package '{package}', which is not installed", command


def of_training(params: TrainingParams) -> Iterator[Fault]:
    """Yield the packages that the chosen optimizer and trackers need and that are not installed."""
    name = "optim" if params.optim is not None else "optimizer"
    chosen = getattr(params, name)
    for start, package, extra in _OPTIMIZERS:
        if chosen in OPTIMIZERS and chosen.startswith(start):
            yield from missing(package, extra, f"training.{name}", f"{name} {chosen}")
    if params.report_to is None:
        for tracker in ("wandb", "mlflow"):
            if getattr(params, f"enable_{tracker}"):
                yield from missing(tracker, "", f"training.enable_{tracker}", f"enable_{tracker}")
        return
    for tracker in [params.report_to] if isinstance(params.report_to, str) else params.report_to:
        if tracker in _TRACKERS:
            yield from missing(tracker, "", "training.report_to", f"report_to {tracker}")
