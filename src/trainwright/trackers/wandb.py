"""Weights & Biases."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from trainwright.trackers.integrations import callback_of
from trainwright.trackers.tracker import TrackedRun, Tracker


class WeightsAndBiases(Tracker):
    """Writes to a W&B run. A Trainer tells transformers' callback, which watches and keeps models besides."""

    def __init__(self) -> None:
        self._run: Any = None

    @classmethod
    def wanted(cls, parameters: Mapping[str, Any]) -> bool:
        """Whether it is installed and set up: offline mode, a key, or the parameter `log_to_wandb` with a login."""
        if find_spec("wandb") is None or os.environ.get("WANDB_MODE") == "disabled":
            return False
        if os.environ.get("WANDB_MODE") == "offline" or os.environ.get("WANDB_API_KEY"):
            return True
        return bool(parameters.get("log_to_wandb")) and _has_login()

    def begin(self, run: TrackedRun) -> None:
        """Begin a run of W&B's."""
        import wandb

        self._run = wandb.init(project=run.project or None, name=run.name, config=dict(run.parameters))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log numbers; the step is one of them, for W&B's own only grows."""
        self._run.log({**metrics, "step": step})

    def finish(self, status: str) -> None:
        """End the run."""
        if self._run is not None:
            self._run.finish(exit_code=0 if status == "COMPLETE" else 1)
            self._run = None

    def callback(self) -> Any:
        """Return transformers' callback."""
        return callback_of("wandb")


def _has_login() -> bool:
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
