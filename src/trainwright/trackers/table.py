"""Which trackers there are: a line each. `report_to`, the decorator of jobs and `jobs.init` ask here."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from trainwright.errors import ConfigError
from trainwright.trackers.callback import TrackerCallback
from trainwright.trackers.tracker import Tracker

JOB = "trainwright"
"""The job store: a training is a job before its trackers are told anything, so it is no tracker of `new`'s."""

TRACKERS = {
    JOB: "job:JobTracker",
    "tensorboard": "tensorboard:TensorBoard",
    "wandb": "wandb:WeightsAndBiases",
    "azure_ml": "integrations:Integration:azure_ml",
    "clearml": "integrations:Integration:clearml",
    "codecarbon": "integrations:Integration:codecarbon",
    "comet_ml": "integrations:Integration:comet_ml",
    "dagshub": "integrations:Integration:dagshub",
    "dvclive": "integrations:Integration:dvclive",
    "flyte": "integrations:Integration:flyte",
    "kubeflow": "integrations:Integration:kubeflow",
    "mlflow": "integrations:Integration:mlflow",
    "neptune": "integrations:Integration:neptune",
    "swanlab": "integrations:Integration:swanlab",
    "trackio": "integrations:Integration:trackio",
}
"""By the names of `report_to`: the module in this package, the class, and what that is made with."""
_PACKAGES = {"azure_ml": "azureml-sdk", "flyte": "flytekit"}  # that are called otherwise


def new(name: str) -> Tracker:
    """Return a new tracker.

    Raises:
        ImportError: its package is not installed.
    """
    made: Tracker = _kind(name)(*TRACKERS[name].split(":")[2:])
    return made


def _kind(name: str) -> Any:
    module, class_name = TRACKERS[name].split(":")[:2]
    return getattr(importlib.import_module(f"trainwright.trackers.{module}"), class_name)


def callbacks(report_to: Iterable[str]) -> list[Any]:
    """Return the callbacks of the trackers that a Trainer is to report to.

    Raises:
        ConfigError: a tracker's package is not installed.
    """
    made = []
    for name in report_to:
        if name == JOB:
            continue
        try:
            tracker = new(name)
            made.append(tracker.callback() or TrackerCallback(tracker, name))
        except (ImportError, RuntimeError) as error:
            raise ConfigError(
                f"report_to='{name}': its package is not installed ({error}). Install it with: pip install "
                f"{_PACKAGES.get(name, name)}."
            ) from error
    return made


def wanted(parameters: Mapping[str, Any]) -> list[str]:
    """Return the names of the trackers that are installed and set up, for a job that names none."""
    return [name for name in TRACKERS if _kind(name).wanted(parameters)]
