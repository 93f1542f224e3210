"""What practice has come to: the curve of problems never seen, and the same problems before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainwright.callbacks.curve import curve

_SHOWN = 10
_WIDTH = 78
_HELD_OUT, _TRAINED = "eval_reward", "reward"


def numbers(history: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Return (step, value) of a number in a run's log history."""
    return [(entry["step"], entry[name]) for entry in history if name in entry]


def in_letters(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the curve of problems never seen as lines of text."""
    marks = numbers(history, _HELD_OUT)
    return curve([], marks, marks[-1][0], _WIDTH, " ● right of problems never seen ")


def draw(path: Path, history: Sequence[Mapping[str, Any]]) -> Path:
    """Draw the share of right answers over the steps of practice; return the path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    steps, shares = zip(*numbers(history, _HELD_OUT), strict=True)
    axes.plot(
        *zip(*numbers(history, _TRAINED), strict=True), lw=1, color="0.7", label="problems practised on, by chance"
    )
    axes.plot(steps, shares, marker="o", ms=4, label=f"problems never seen: {shares[0]:.0%} to {shares[-1]:.0%}")
    axes.set(xlabel="step of GRPO", ylabel="right answers", ylim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=120)
    return path


def side_by_side(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield lines for the first problems: each, and what was answered before and after, with what the checker says.

    Args:
        before, after: completions of the same prompts (`reinforcement.samples.read`).
    """
    for one, other in list(zip(before, after, strict=True))[:_SHOWN]:
        yield f"d/dx ({one['prompt'].removesuffix(' = ')})"
        for name, answer in (("before", one), ("after", other)):
            verdict, end = "right" if answer["reward"] == 1 else "wrong", "" if answer["finished"] else " ..."
            yield f"  {name:<7}{verdict}  {answer['completion']}{end}"
