"""A picture of a reward model's calibration beside its evaluations, and the error in one number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainwright.callbacks.base import TrainerCallback
from trainwright.objectives.reward import CALIBRATION, SURE
from trainwright.state import TrainerControl, TrainerState

PICTURE = "calibration.png"
Point = tuple[float, float, float]


class CalibrationCallback(TrainerCallback):
    """Adds the mean distance of right from sure to the metrics of an evaluation, and draws `calibration.png`."""

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look at the numbers of `objectives.reward.calibration`; of several sets each has an error of its own."""
        metrics = kwargs["metrics"]
        for prefix in {name.split(f"_{CALIBRATION}/")[0] for name in metrics if f"_{CALIBRATION}/" in name}:
            points = points_of(metrics, prefix)
            name = f"{prefix}_{CALIBRATION}_error"
            metrics[name] = state.log_history[-1][name] = error(points)
            if state.is_world_process_zero:
                draw(Path(args.output_dir) / PICTURE, points, f"{prefix}, step {state.global_step}")


def points_of(metrics: Mapping[str, float], prefix: str) -> list[Point]:
    """Return (sure, right, share) of the pairs between two edges, where there are any."""
    found = []
    for low in SURE[:-1]:
        numbers = [metrics.get(f"{prefix}_{CALIBRATION}/{low}/{what}") for what in ("sure", "right", "share")]
        if None not in numbers and numbers[2]:
            found.append((float(numbers[0] or 0), float(numbers[1] or 0), float(numbers[2] or 0)))
    return found


def error(points: list[Point]) -> float:
    """Return the expected calibration error: how far right is from sure, in the mean over all pairs."""
    return sum(share * abs(right - sure) for sure, right, share in points)


def draw(path: Path, points: list[Point], title: str) -> None:
    """Draw how often a model is right over how sure it is; the area of a mark is its share of the pairs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0.5, 1], [0.5, 1], color="0.7", lw=1, label="as often right as sure")
    sure, right, shares = zip(*points, strict=True)
    axes.plot(sure, right, color="tab:blue", lw=1)
    axes.scatter(sure, right, s=[20 + 400 * share for share in shares], label=f"pairs; error {error(points):.3f}")
    axes.set(xlabel="how sure", ylabel="how often right", title=title, xlim=(0.48, 1.02), ylim=(-0.02, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
