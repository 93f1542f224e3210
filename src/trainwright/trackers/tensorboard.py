"""TensorBoard: event files in a folder."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainwright.trackers.tracker import TrackedRun, Tracker


class TensorBoard(Tracker):
    """Writes to the run's folder, or to the one that TENSORBOARD_LOGGING_DIR names.

    Raises:
        ImportError: neither tensorboard nor tensorboardX is installed.
    """

    replaces = "TensorBoardCallback"

    def __init__(self) -> None:
        if not self.wanted({}):
            raise ImportError("neither tensorboard nor tensorboardX is there")
        self._writer: Any = None

    @classmethod
    def wanted(cls, parameters: Mapping[str, Any]) -> bool:
        """Whether it is installed."""
        return find_spec("tensorboard") is not None or find_spec("tensorboardX") is not None

    def begin(self, run: TrackedRun) -> None:
        """Open a file, and write the parameters and the model's configuration down."""
        named = os.environ.get("TENSORBOARD_LOGGING_DIR") if run.trial is None else None
        self._writer = _writer_class()(str(Path(named).expanduser() if named else run.folder))
        for title, content in (("args", run.parameters), ("model_config", run.model_config)):
            if content:
                self._writer.add_text(title, json.dumps(dict(content), indent=2, default=str))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write numbers."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, status: str) -> None:
        """Write what is waiting, and close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _writer_class() -> Any:
    """Return torch's writer, which needs tensorboard, or that of tensorboardX."""
    module = "torch.utils.tensorboard" if find_spec("tensorboard") is not None else "tensorboardX"
    return importlib.import_module(module).SummaryWriter
