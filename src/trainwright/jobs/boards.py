"""TensorBoard and W&B, where they are installed and configured."""

from __future__ import annotations

import netrc
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def names(params: dict[str, Any]) -> list[str]:
    """Return the boards that a Trainer can report to, by transformers' names."""
    found = ["tensorboard"] if find_spec("tensorboard") or find_spec("tensorboardX") else []
    return [*found, "wandb"] if wandb_is_configured(params) else found


def wandb_is_configured(params: dict[str, Any]) -> bool:
    """Whether W&B is installed and wanted: offline mode, a key, or the parameter `log_to_wandb` with a login."""
    if find_spec("wandb") is None or os.environ.get("WANDB_MODE") == "disabled":
        return False
    if os.environ.get("WANDB_MODE") == "offline" or os.environ.get("WANDB_API_KEY"):
        return True
    return bool(params.get("log_to_wandb")) and _has_login()


def _has_login() -> bool:
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


class Board:
    """Writes metrics of a script of its own loop to TensorBoard and W&B."""

    def __init__(self, writer: Any, run: Any) -> None:
        self.writer = writer
        self.run = run
        self.step = 0

    def add(self, name: str, value: float, step: int | None) -> None:
        """Note a metric's value."""
        self.step = self.step + 1 if step is None else step
        if self.writer is not None:
            self.writer.add_scalar(name, value, self.step)
        if self.run is not None:
            self.run.log({name: value, "step": self.step})

    def close(self) -> None:
        """Write what is waiting."""
        if self.writer is not None:
            self.writer.close()
        if self.run is not None:
            self.run.finish()


def open_board(folder: Path, project: str, name: str, params: dict[str, Any]) -> Board:
    """Return the boards that are there; none of them is fine too."""
    writer = run = None
    if find_spec("tensorboard") is not None:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(folder))
    if wandb_is_configured(params):
        import wandb

        run = wandb.init(project=project, name=name, config=params)
    return Board(writer, run)
