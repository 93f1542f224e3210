"""The curve of a code model as a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(path: Path, history: list[dict[str, Any]], final: float, yardsticks: dict[str, float]) -> Path:
    """Draw bits per byte over steps, with a line for every yardstick; return the path."""
    from matplotlib.figure import Figure

    points = [(entry["step"], entry["eval_bits_per_byte"]) for entry in history if "eval_bits_per_byte" in entry]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([step for step, _ in points], [bits for _, bits in points], marker="o", ms=3, label="model, part of it")
    last = history[-1]["step"]
    axes.plot([last], [final], marker="*", ms=11, linestyle="none", label=f"model, all of it: {final:.2f}")
    for (name, value), style in zip(yardsticks.items(), ("--", ":"), strict=False):
        axes.axhline(value, color="gray", linestyle=style, label=f"{name}: {value:.2f}")
    axes.set(xlabel="step", ylabel="bits per byte of files never seen", ylim=(min(final, 1.2) - 0.1, 3.2))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    return path
