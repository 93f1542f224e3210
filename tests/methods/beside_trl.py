"""Runs of our methods beside TRL's, on the same rows, and what both log of every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny_language as tiny
from trainwright.config.composition import build_trainer
from trainwright.config.reading.read import load_checked

CLOSE = 1e-5  # float32, sums in another order
RATE = 2e-4
ARGUMENTS = {
    "max_steps": 6, "learning_rate": RATE, "logging_steps": 1, "report_to": "none", "use_cpu": True, "bf16": False,
    "gradient_checkpointing": False, "save_strategy": "no", "disable_tqdm": True, "optim": "adamw_torch",
}  # fmt: skip


def content_of(
    method: str, place: Path, out: Path, data: str, kwargs: dict[str, Any], model: Any = None, **training: Any
) -> dict[str, Any]:
    """Return a method's file, with `kwargs` as its settings and `model` as further keys of the model."""
    more = {"trainer_type": method, "trainer_kwargs": {"max_length": 1024, **kwargs}, "learning_rate": RATE}
    content = tiny.settings(place, data, output_dir=str(out / "ours"), **{**more, **training})
    content["model"] |= model or {}
    return content


def trained(out: Path, content: dict[str, Any]) -> Any:
    """Return the Trainer of a file, after its training."""
    trainer = build_trainer(load_checked(tiny.write_yaml(out / "run.yaml", content)).config)
    trainer.train()
    return trainer


def logs(trainer):
    return [entry for entry in trainer.state.log_history if "grad_norm" in entry]


def compare(one, other, names, tolerance=CLOSE):
    assert len(logs(one)) == len(logs(other)) == 6
    for first, second in zip(logs(one), logs(other), strict=True):
        for name in names:
            assert (name in first) == (name in second), name
            if name in first:
                assert first[name] == pytest.approx(second[name], rel=tolerance, abs=tolerance), (name, first["step"])


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
