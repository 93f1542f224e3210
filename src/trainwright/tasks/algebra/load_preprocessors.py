"""Preprocessors of rows by the names that CALT's scripts know: `process_sample` makes the two texts of a row, given as
the file has it: a line `problem # answer`, or a mapping with problem and answer (or solution)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainwright.errors import ConfigError, DataError
from trainwright.tasks.algebra.data import Pair
from trainwright.tasks.algebra.preprocess import Chain as ChainLoadPreprocessor
from trainwright.tasks.algebra.preprocess import imported

__all__ = ["ChainLoadPreprocessor"]


def as_words(value: Any) -> str:
    """Return a value as text; of lists, also nested ones, what they hold with spaces between."""
    return " ".join(map(as_words, value)) if isinstance(value, list) else str(value)


def parts(source: Any) -> tuple[Any, Any]:
    """Return problem and answer of a row.

    Raises:
        DataError: it has none.
    """
    if isinstance(source, str):
        problem, found, answer = source.partition("#")
        if found:
            return problem.strip(), answer.strip()
    elif isinstance(source, tuple) and len(source) == 2:
        return source
    elif isinstance(source, dict) and "problem" in source and ("answer" in source or "solution" in source):
        return source["problem"], source["answer"] if "answer" in source else source["solution"]
    raise DataError(f"{str(source)[:60]!r} has no problem and answer.")


class TextDefaultLoadPreprocessor:
    """Problem and answer as they are; of lists, what they hold with spaces between."""

    def process_sample(self, source: Any) -> Pair:
        """Return the two texts of a row."""
        problem, answer = parts(source)
        return as_words(problem), as_words(answer)


class JsonlDefaultLoadPreprocessor(TextDefaultLoadPreprocessor):
    """The same for JSON lines."""


class PickleDefaultLoadPreprocessor(TextDefaultLoadPreprocessor):
    """The same for values that pickle wrote."""


class UserCallableLoadPreprocessor:
    """What `f(problem, answer)` makes of them.

    Attributes:
        callable_: the function, or `package.module:function`.
        source_type: not used: a row says what it is.
    """

    def __init__(self, callable_: Callable[[Any, Any], Pair] | str, source_type: str = "auto") -> None:
        self.callable_ = imported(callable_, "callable_") if isinstance(callable_, str) else callable_
        self.source_type = source_type

    def process_sample(self, source: Any) -> Pair:
        """Return the two texts of a row."""
        made: Pair = self.callable_(*parts(source))
        return made


class ReversedOrderLoadPreprocessor:
    """The answer's items in reversed order.

    Attributes:
        problem_to_str: makes text of a problem that is none; `as_words` when not given.
        delimiter: between items of an answer that is text.
    """

    def __init__(self, problem_to_str: Callable[[Any], str] | None = None, delimiter: str = ",") -> None:
        self.problem_to_str, self.delimiter = problem_to_str, delimiter

    def process_sample(self, source: Any) -> Pair:
        """Return the two texts of a row."""
        problem, items = _items(self, source)
        return problem, self.delimiter.join(items[::-1])


class LastElementLoadPreprocessor:
    """The last of the answer's items alone; attributes as those of `ReversedOrderLoadPreprocessor`."""

    def __init__(self, problem_to_str: Callable[[Any], str] | None = None, delimiter: str = ",") -> None:
        self.problem_to_str, self.delimiter = problem_to_str, delimiter

    def process_sample(self, source: Any) -> Pair:
        """Return the two texts of a row."""
        problem, items = _items(self, source)
        return problem, items[-1] if items else ""


def _items(preprocessor: Any, source: Any) -> tuple[str, list[str]]:
    """Return the problem as text, and the items of the answer that hold something."""
    problem, answer = parts(source)
    items = answer if isinstance(answer, list) else str(answer).split(preprocessor.delimiter)
    asked = problem if isinstance(problem, str) else (preprocessor.problem_to_str or as_words)(problem)
    return asked, [text for text in (as_words(item).strip() for item in items) if text]


class TextToSageLoadPreprocessor:
    """Polynomials of a ring out of a line of text, for `ExpandedFormLoadPreprocessor`.

    Attributes:
        delimiter: between polynomials.
        ring: makes a polynomial of a text: a ring of SageMath or sympy, a function, or `package.module:name`.
    """

    def __init__(self, delimiter: str = " | ", ring: Any = None) -> None:
        if ring is None:
            raise ConfigError("TextToSageLoadPreprocessor needs ring=, which makes a polynomial of a text.")
        self.delimiter, self.ring = delimiter, imported(ring, "ring") if isinstance(ring, str) else ring

    def process_sample(self, source: Any) -> dict[str, Any]:
        """Return problem and answer as lists of polynomials."""
        texts = dict(zip(("problem", "answer"), parts(source), strict=True))
        return {
            name: [self.ring(part.strip()) for part in text.split(self.delimiter) if part.strip()]
            for name, text in texts.items()
        }


class ExpandedFormLoadPreprocessor:
    """Polynomials of sympy's rings or of SageMath as terms of a coefficient and all exponents: `C3 E2 E0 + C-1 E0 E1`.

    Attributes:
        delimiter: between several polynomials.
    """

    def __init__(self, delimiter: str = " || ") -> None:
        self.delimiter = delimiter

    def process_sample(self, source: Any) -> Pair:
        """Return the two texts of a row."""
        problem, answer = map(self._expanded, parts(source))
        return problem, answer

    def _expanded(self, value: Any) -> str:
        if isinstance(value, list | tuple):
            return self.delimiter.join(map(self._expanded, value))
        return (
            " + ".join(" ".join([f"C{c}", *(f"E{power}" for power in powers)]) for powers, c in _terms(value)) or "C0"
        )


def _terms(polynomial: Any) -> list[tuple[tuple[int, ...], Any]]:
    """Return (exponents, coefficient) of every term.

    Raises:
        DataError: it is no polynomial of a ring.
    """
    if hasattr(polynomial, "terms"):  # sympy
        return [(tuple(map(int, powers)), c) for powers, c in polynomial.terms()]
    if hasattr(polynomial, "dict"):  # SageMath; of one variable, an exponent is a number
        found = polynomial.dict().items()
        return [(tuple(map(int, e)) if hasattr(e, "__iter__") else (int(e),), c) for e, c in found if c != 0]
    raise DataError(
        f"{str(polynomial)[:60]!r} is {type(polynomial).__name__}, and no polynomial of sympy's rings or of SageMath. "
        "Of text, dataset_load_preprocessor: expanded_form makes the same."
    )
