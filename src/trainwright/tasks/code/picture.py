"""The curve of a code model as a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def draw(path: Path, points: Sequence[tuple[int, float]], yardsticks: Mapping[str, float], killed: int | None) -> Path:
    """Draw bits per byte over steps, with a line for every yardstick and at the step of a kill; return the path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    steps, bits = zip(*points, strict=True)
    axes.plot(steps, bits, marker="o", ms=4, label=f"model: {bits[-1]:.2f}")
    for (name, value), style in zip(yardsticks.items(), ("--", ":"), strict=False):
        axes.axhline(value, color="gray", linestyle=style, label=f"{name}: {value:.2f}")
    if killed is not None:
        axes.axvline(killed, color="tab:red", lw=1, label=f"killed at step {killed}, went on")
    axes.set(xlabel="step", ylabel="bits per byte of files never seen")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    return path
