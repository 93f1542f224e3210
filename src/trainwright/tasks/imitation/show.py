"""The returns of a run's rollouts, drawn between those of the demonstrator and of chance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainwright.tasks.imitation.experts import EXPERTS, record


def draw_returns(folder: Path, rollout: Mapping[str, Any]) -> tuple[list[str], Path]:
    """Draw `returns.png` in a run's folder; return what it shows as lines of text, and its path.

    The demonstrator and chance begin from the seeds of the rollouts, in the same environment.
    """
    from matplotlib.figure import Figure

    files = sorted((folder / "rollouts").glob("step_*.json"), key=_step)
    curve = [(_step(path), [one["total"] for one in json.loads(path.read_text(encoding="utf-8"))]) for path in files]
    env, count, seed = rollout["env"], int(rollout.get("episodes", 20)), int(rollout.get("seed", 10_000))
    known = [name for name in ("scripted", "random") if name == "random" or env in EXPERTS]
    settings = rollout.get("settings") or {}
    episodes = {name: record(env, name, count, seed, **settings) for name in known}
    lines = {name: float(np.mean([one.about["return"] for one in some])) for name, some in episodes.items()}
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    steps = [step for step, _ in curve]
    axes.plot(steps, [np.mean(totals) for _, totals in curve], marker="o", label="policy")
    axes.fill_between(steps, [min(t) for _, t in curve], [max(t) for _, t in curve], alpha=0.15)
    for name, style in (("scripted", "--"), ("random", ":")):
        if name in lines:
            axes.axhline(lines[name], linestyle=style, color="0.4", label={"scripted": "expert"}.get(name, name))
    axes.set(xlabel="step", ylabel="return")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path = folder / "returns.png"
    figure.savefig(path, dpi=120)
    told = [f"{name}: mean return {value:.1f}" for name, value in lines.items()]
    return [*told, *(f"policy at step {step}: {np.mean(totals):.1f}" for step, totals in curve)], path


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))
