"""Answers of the tasks of algebra: right in whatever form they are written."""

from __future__ import annotations

from trainwright.tasks.algebra.expressions import NotAPolynomial
from trainwright.tasks.algebra.problems import task_named
from trainwright.verifiers.text import answer_in


def algebra(completion: str, answer: str, task: str, pattern: str | None = None) -> float:
    """Return 1.0 if the answer is the reference by the checker of a task (`trainwright algebra tasks` lists them).

    Args:
        completion: what was written.
        answer: the reference.
        task: the task's name.
        pattern: finds the answer in the completion; see `answer_in`.

    Raises:
        ConfigError: there is no such task.
        NotAPolynomial: the reference is no answer of it.
    """
    checker = task_named(task).check
    try:
        given = checker.form_of(answer_in(completion, pattern))
    except NotAPolynomial:
        return 0.0
    return float(given == checker.form_of(answer))
