"""A model measured by what it writes: every answer is judged by verifiers, or by functions of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainwright.errors import DataError
from trainwright.rewards.functions import Reward, call
from trainwright.trained.asking.generating import generate, lines_of
from trainwright.trained.asking.prompts import prompt_of
from trainwright.trained.asking.writer import Writer
from trainwright.trained.folders import Trained
from trainwright.trained.measuring.comparing import Scores
from trainwright.trained.measuring.evaluating import Evaluation, vocabulary_of
from trainwright.trained.measuring.rows import Data

ANSWER = "answer"


def by_answers(
    trained: Trained,
    writer: Writer,
    data: Data,
    verifiers: Sequence[Reward],
    file: Path,
    *,
    count: int = 1,
    seed: int = 0,
) -> Evaluation:
    """Return the share of answers that verifiers find right, row by row; of several answers to a row, their mean.

    Args:
        trained: the model.
        writer: the same, writing.
        data: rows that ask something, with what a verifier needs besides, such as `answer`.
        verifiers: what judges.
        file: where the answers are kept; those that are there already are not written again.
        count: answers to every row.
        seed: of the random numbers.

    Raises:
        DataError: a row asks nothing, or a verifier cannot judge the rows, or judges none.
    """
    prompts = [prompt_of(row, number) for number, row in enumerate(data.rows)]
    generate(writer, prompts, file, count=count, seed=seed, about={"model": str(trained.folder.resolve())})
    lines = lines_of(file)
    columns = columns_of(data.rows, lines)
    rows: list[dict[str, Any]] = [{"row": number, "generated": []} for number in range(len(data.rows))]
    for line in lines:
        rows[line["row"]]["generated"].append(line["generated"])
    found = []
    for one in verifiers:
        try:
            judged = call(one, columns)
        except Exception as error:  # of the user's function
            what = error if isinstance(error, TypeError) else f"{type(error).__name__}: {error}"
            raise DataError(f"'{one.name}' cannot judge the rows of '{data.name}': {what}.") from error
        for number, why in judged.wrong.items():
            row = lines[number]["row"]
            raise DataError(f"'{one.name}' cannot judge the rows of '{data.name}': of an answer to row {row} {why}.")
        found.append(_scores(one.name, rows, lines, judged.values))
    return Evaluation(trained, found, rows, vocabulary_of(writer.tokenizer))


def _scores(
    name: str, rows: list[dict[str, Any]], lines: Sequence[Mapping[str, Any]], judged: Sequence[float | None]
) -> Scores:
    """Return the mean of what each row's answers are worth, and note it in the rows; None counts in no mean."""
    sums, counts = np.zeros(len(rows)), np.zeros(len(rows))
    for line, value in zip(lines, judged, strict=True):
        if value is not None:
            sums[line["row"]] += value
            counts[line["row"]] += 1
    known = counts > 0
    if not known.any():
        raise DataError(f"'{name}' judges no answer: it returns None for all of them.")
    each = np.divide(sums, counts, out=np.zeros(len(rows)), where=known)
    for row, value, is_known in zip(rows, each.tolist(), known, strict=True):
        row[name] = value if is_known else None
    return Scores(name, each, known.astype(float))


def columns_of(rows: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return what a verifier is called with: the columns of every answer's row, and `answer`, which where there is
    none is the completion, or the assistant's last turn, if all rows have one."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns: dict[str, list[Any]] = {name: [rows[line["row"]].get(name) for line in lines] for name in names}
    references = [reference_of(rows[line["row"]]) for line in lines]
    if ANSWER not in columns and None not in references:
        columns[ANSWER] = references
    written = [line["generated"] for line in lines]
    return columns | {"prompts": [line["prompt"] for line in lines], "completions": written}


def reference_of(row: Mapping[str, Any]) -> str | None:
    """Return what a row would have as an answer: its completion, or the assistant's last turn; None for none."""
    given = row.get("completion") or row.get("messages") or row.get("conversations")
    if isinstance(given, list) and given:
        given = given[-1].get("content", given[-1].get("value"))
    return given if isinstance(given, str) else None
