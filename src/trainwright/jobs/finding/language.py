"""Queries of lists as a person writes them: `lr > 1e-4 and (loss < 2 or status = RUNNING) and not tag = old`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trainwright.errors import JobError

OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "~", "!~")
_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>"[^"]*"|'[^']*')|(?P<sign><=|>=|!=|!~|==|[=<>~(),])|(?P<word>[^\s()<>=!~,"']+))"""
)
_WORDS = ("and", "or", "not", "in")
_MOST, _DEEPEST = 200, 20  # comparisons of a query, and brackets in brackets: more than that no database takes
_EXAMPLE = "such as lr > 1e-4 and loss < 2"


@dataclass(frozen=True)
class Comparison:
    """A key, one of OPERATORS, and a value as it is written."""

    key: str
    operator: str
    value: str


@dataclass(frozen=True)
class Both:
    """What fulfils all of some conditions, or, with `any_of`, at least one."""

    parts: tuple[Condition, ...]
    any_of: bool = False


@dataclass(frozen=True)
class Not:
    """What does not fulfil a condition."""

    part: Condition


Condition = Comparison | Both | Not


@dataclass(frozen=True)
class _Token:
    text: str
    kind: str  # quoted, sign, word, or end
    place: int

    def says(self, *words: str) -> bool:
        """Whether it is one of some words or signs, in capitals or not."""
        return self.kind != "quoted" and self.text.lower() in words


def read(query: str) -> Condition:
    """Return what a query says.

    `and` binds closer than `or`; `KEY in (A, B)` is one of them; names and values with blanks stand in quotes.

    Raises:
        JobError: it is none; it says where, and what was expected.
    """
    return _Reader(query).whole()


class _Reader:
    def __init__(self, query: str) -> None:
        self.query = query
        self.tokens = _tokens(query)
        self._depth = self._count = 0

    def whole(self) -> Condition:
        found = self._several("or")
        if self.tokens[0].kind != "end":
            raise self._wrong("'and', 'or' or the end")
        return found

    def _several(self, word: str) -> Condition:
        parts = [self._several("and") if word == "or" else self._one()]
        while self.tokens[0].says(word):
            self._next()
            parts.append(self._several("and") if word == "or" else self._one())
        return parts[0] if len(parts) == 1 else Both(tuple(parts), any_of=word == "or")

    def _one(self) -> Condition:
        if self.tokens[0].says("not", "("):
            return self._inner()
        key = self._text("a name")
        if self.tokens[0].says("in"):
            self._next()
            return Both(tuple(Comparison(key, "=", value) for value in self._values()), any_of=True)
        sign = self.tokens[0]
        if sign.kind != "sign" or sign.text.replace("==", "=") not in OPERATORS:
            raise self._wrong(f"one of {' '.join(OPERATORS)} after '{key}'")
        self._next()
        return Comparison(key, sign.text.replace("==", "="), self._text(f"a value after '{sign.text}'"))

    def _inner(self) -> Condition:
        """Return what stands behind a `not` or in brackets."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise JobError(f"The query {self.query[:80]!r}… has more than {_DEEPEST} brackets in brackets.")
        is_not = self.tokens[0].says("not")
        self._next()
        found = Not(self._one()) if is_not else self._several("or")
        if not is_not:
            self._expect(")")
        self._depth -= 1
        return found

    def _values(self) -> list[str]:
        self._expect("(")
        found = [self._text("a value")]
        while self.tokens[0].says(","):
            self._next()
            found.append(self._text("a value"))
        self._expect(")")
        return found

    def _text(self, what: str) -> str:
        token = self.tokens[0]
        if token.kind not in ("word", "quoted") or token.says(*_WORDS):
            raise self._wrong(what)
        self._count += 1
        if self._count > 2 * _MOST:
            raise JobError(f"The query {self.query[:80]!r}… has more than {2 * _MOST} names and values.")
        self._next()
        return token.text[1:-1] if token.kind == "quoted" else token.text

    def _expect(self, sign: str) -> None:
        if not self.tokens[0].says(sign):
            raise self._wrong(f"'{sign}'")
        self._next()

    def _next(self) -> None:
        self.tokens.pop(0)

    def _wrong(self, expected: str) -> JobError:
        token = self.tokens[0]
        where = "at its end" if token.kind == "end" else f"at {token.text!r}, its character {token.place + 1}"
        return JobError(f"The query {self.query[:80]!r}: {expected} is expected {where}; {_EXAMPLE}.")


def _tokens(query: str) -> list[_Token]:
    found, place, end = [], 0, len(query.rstrip())
    while place < end:
        match = _TOKEN.match(query, place)
        if match is None or match.lastgroup is None:
            raise JobError(
                f"The query {query[:80]!r} has a mark that is none, {query[place:].strip()[:1]!r}, or a quote that "
                "is not closed."
            )
        found.append(_Token(match[match.lastgroup], match.lastgroup, match.start(match.lastgroup)))
        place = match.end()
    return [*found, _Token("", "end", len(query))]
