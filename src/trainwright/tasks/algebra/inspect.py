"""A look at what a model wrote: success by length, tokens taken for others, and wrong answers."""

from __future__ import annotations

import difflib
import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from trainwright.errors import DataError

_SHOWN = 70  # characters of an answer, such as of a model that ends none
_EDGES = (4, 8, 16, 32, 64, 128, 256)
_CUT = " ... (no end within generation_max_length)"


def newest_results(folder: Path) -> Path:
    """Return the newest file of results in a run's folder.

    Raises:
        DataError: there is none.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder '{folder}'; give that of a run.")
    found = sorted((folder / "eval_results").glob("step_*.json"), key=lambda path: int(path.stem.split("_")[1]))
    if not found:
        raise DataError(f"'{folder}' holds no eval_results/step_N.json; evaluate the run first.")
    return found[-1]


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of results."""
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def by_length(results: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """Return (tokens of the reference, right rows, rows) for every range of lengths that occurs."""
    found = []
    for least, most in itertools.pairwise((0, *_EDGES, math.inf)):
        part = [one for one in results if least < one["length"] <= most]
        if part:
            name = f"{least + 1}-{most}" if most < math.inf else f"above {least}"
            found.append((name, sum(one["correct"] for one in part), len(part)))
    return found


def confusion(results: list[dict[str, Any]], count: int = 10) -> list[tuple[str, str, int]]:
    """Return the most frequent (expected, written, times) among the tokens of wrong answers."""
    found: Counter[tuple[str, str]] = Counter()
    for one in results:
        if not one["correct"]:
            wanted, written = one["reference"].split(), one["generated"].split()
            found.update((a, b) for a, b in zip(wanted, written, strict=False) if a != b)
    return [(a, b, times) for (a, b), times in found.most_common(count)]


def marked(reference: str, generated: str) -> str:
    """Return what was written, with the parts that are not the reference's between [[ and ]]."""
    wanted, written = reference.split(), generated.split()
    parts = []
    for kind, _, _, start, end in difflib.SequenceMatcher(None, wanted, written, autojunk=False).get_opcodes():
        text = " ".join(written[start:end])
        if kind == "equal":
            parts.append(text)
        else:
            parts.append(f"[[{text}]]")
    return " ".join(part for part in parts if part)


def describe(results: list[dict[str, Any]], wrong: int = 10) -> str:
    """Return everything as text."""
    right = sum(one["correct"] for one in results)
    lines = [f"{right} of {len(results)} answers are right ({right / max(len(results), 1):.1%})"]
    algebra = sum(one.get("algebraically_correct", one["correct"]) for one in results)
    if algebra != right:
        lines.append(f"{algebra} are right by algebra, some written otherwise")
    lines += ["", "tokens of the answer   right"]
    lines += [f"{name:>20}   {good:>5} of {rows:<5} {good / rows:>6.1%}" for name, good, rows in by_length(results)]
    mixed = confusion(results)
    if mixed:
        lines += ["", "expected   written   times", *(f"{a:>8}   {b:>7}   {times:>5}" for a, b, times in mixed)]
    failures = [one for one in results if not one["correct"]][:wrong]
    for one in failures:
        written = marked(one["reference"], one["generated"]) + ("" if one.get("finished", True) else _CUT)
        lines += ["", f"problem   {one['input']}", f"expected  {one['reference']}", f"written   {written}"]
    return "\n".join(lines)


def aloud(results: list[dict[str, Any]], count: int = 10) -> str:
    """Return the first problems with the model's answers, and what the checker says of them, in words."""
    lines = []
    for one in results[:count]:
        verdict = "right"
        if not one.get("algebraically_correct", one["correct"]):
            verdict = f"wrong; right is {compact(one['reference'])}"
        elif not one["correct"]:
            verdict = f"right, though written otherwise than {compact(one['reference'])}"
        answer = compact(one["generated"]) or "(nothing)"
        lines += [f"  {compact(one['input'])}", f"    → {answer[:_SHOWN]}{'…' * (len(answer) > _SHOWN)}    {verdict}"]
    return "\n".join(lines)


def compact(text: str) -> str:
    """Return tokens as one writes them: `- 3 * x ^ 2 + 1` becomes `-3*x^2 + 1`."""
    text = text.replace(" * ", "*").replace(" ^ ", "^")
    return f"-{text[2:]}" if text.startswith("- ") else text


def plot(folder: Path, results: list[dict[str, Any]]) -> Path:
    """Draw success over steps and by length as a PNG in a run's folder; return its path."""
    from matplotlib.figure import Figure

    files = sorted((folder / "eval_results").glob("step_*.json"), key=lambda path: int(path.stem.split("_")[1]))
    curve = [(int(path.stem.split("_")[1]), read_results(path)) for path in files]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    shares = [sum(one["correct"] for one in rows) / max(len(rows), 1) for _, rows in curve]
    left.plot([step for step, _ in curve], shares, marker="o")
    left.set(xlabel="step", ylabel="share of right answers", ylim=(0, 1.02))
    groups = by_length(results)
    right.bar([name for name, _, _ in groups], [good / rows for _, good, rows in groups])
    right.set(xlabel="tokens of the answer", ylim=(0, 1.02))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    path = folder / "success.png"
    figure.savefig(path, dpi=120)
    return path
