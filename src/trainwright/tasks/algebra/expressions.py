"""Polynomials as text: a grammar of our own, so that what a model wrote is never run as code, and exact arithmetic that
refuses what would not end before it begins.

A sum of terms with `+ - * / ^` (or `**`), brackets, whole numbers, fractions and decimals, read as Python and sympy
read it: `-x^2` is -(x²), `2^3^2` is 2⁹, `x - -3` is x + 3. Division is by numbers, exponents are whole numbers. Also
`C3 E2 E0 + C-1 E0 E1`, coefficients and the exponents of all variables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction

Monomial = tuple[tuple[str, int], ...]
"""The variables with their exponents, by name."""
Polynomial = dict[Monomial, Fraction]
"""Coefficients, none of them zero; the polynomial 0 is empty."""

# what is computed for one text at most; far above what any problem here asks for, and done within a second
DIGITS = 300  # of a number that is written
BITS = 1024  # of a coefficient's numerator and denominator
DEGREE = 10_000
PRODUCTS = 10_000  # of two terms
DEPTH = 50  # of brackets and towers of exponents

_MONOMIAL = r"C-?[0-9]+(?:/[0-9]+)?(?:\s+E[0-9]+)+"
_WORD = re.compile(
    rf"(?P<monomial>{_MONOMIAL})|(?P<number>[0-9]+(?:\.[0-9]+)?)|(?P<name>[^\W\d]\w*)|(?P<power>\^|\*\s*\*)"
    r"|(?P<sign>[-+*/()])|(?P<other>\S)"
)


class NotAPolynomial(ValueError):
    """A text is no polynomial, or one that is too large to compute with; says why."""


def read(text: str) -> Polynomial:
    """Return the polynomial that a text stands for.

    Raises:
        NotAPolynomial: it stands for none.
    """
    return sum_of(terms(text))


def terms(text: str) -> list[Polynomial]:
    """Return the terms of a text's sum, each by itself, in their order.

    Raises:
        NotAPolynomial: a term stands for no polynomial.
    """
    reader = _Reader(text)
    found = list(reader.terms())
    if reader.kind != "end":
        raise NotAPolynomial(f"{reader.word!r} follows where an operator is expected")
    return found


def sum_of(parts: list[Polynomial]) -> Polynomial:
    """Return the sum of polynomials.

    Raises:
        NotAPolynomial: a coefficient becomes too large.
    """
    total: Polynomial = {}
    for part in parts:
        for monomial, value in part.items():
            total[monomial] = value = total[monomial] + value if monomial in total else value
            _within(_size(value), BITS, "a coefficient's bits")
    return {monomial: value for monomial, value in total.items() if value}


def written(polynomial: Polynomial) -> str:
    """Return a polynomial as text, the highest powers of the first variable first."""
    names = sorted({name for monomial in polynomial for name, _ in monomial})
    powers = {monomial: tuple(dict(monomial).get(name, 0) for name in names) for monomial in polynomial}
    made = ""
    for monomial in sorted(polynomial, key=lambda one: powers[one], reverse=True):
        value = polynomial[monomial]
        factors = [name if power == 1 else f"{name}^{power}" for name, power in monomial]
        if abs(value) != 1 or not factors:
            factors.insert(0, str(abs(value)))
        sign = ("-" if value < 0 else "") if not made else " - " if value < 0 else " + "
        made += sign + "*".join(factors)
    return made or "0"


class _Reader:
    """Reads one text; `kind` and `word` are what comes next."""

    def __init__(self, text: str) -> None:
        self._words = iter([*((str(one.lastgroup), one[0]) for one in _WORD.finditer(text)), ("end", "")])
        self._products = self._depth = 0
        self.kind, self.word = next(self._words)

    def terms(self) -> Iterator[Polynomial]:
        """Read a sum."""
        yield self._term()
        while self.word in ("+", "-"):
            sign, term = self._take(), self._term()
            yield _negative(term) if sign == "-" else term

    def _take(self) -> str:
        """Return the next word, and go on."""
        word = self.word
        self.kind, self.word = next(self._words)
        return word

    def _term(self) -> Polynomial:
        made = self._signed()
        while self.word in ("*", "/"):
            operator, factor = self._take(), self._signed()
            made = self._product(made, factor if operator == "*" else _inverse(factor))
        return made

    def _signed(self) -> Polynomial:
        """Read a power with the signs before it, which hold for the whole power."""
        negative = False
        while self.word in ("+", "-"):
            negative ^= self._take() == "-"
        made = self._atom()
        if self.kind == "power":
            self._take()
            made = self._power(made, self._deeper(self._signed))
        return _negative(made) if negative else made

    def _atom(self) -> Polynomial:
        kind, word = self.kind, self._take() if self.kind != "end" else ""
        if kind == "number":
            return _number(word)
        if kind == "name":
            return {((word, 1),): Fraction(1)}
        if kind == "monomial":
            return _monomial(word)
        if word != "(":
            raise NotAPolynomial(f"{word!r} stands where a number or variable is expected" if word else "it ends early")
        made = self._deeper(lambda: sum_of(list(self.terms())))
        if self.word != ")":
            raise NotAPolynomial("a bracket is not closed")
        self._take()
        return made

    def _deeper(self, what: Callable[[], Polynomial]) -> Polynomial:
        self._depth += 1
        if self._depth > DEPTH:
            raise NotAPolynomial(f"brackets or exponents are more than {DEPTH} deep")
        made = what()
        self._depth -= 1
        return made

    def _product(self, one: Polynomial, other: Polynomial) -> Polynomial:
        self._products += len(one) * len(other)
        if self._products > PRODUCTS:
            raise NotAPolynomial(f"it takes more than {PRODUCTS:,} products of terms")
        return sum_of([{_joined(a, b): one[a] * other[b] for b in other} for a in one])

    def _power(self, base: Polynomial, given: Polynomial) -> Polynomial:
        exponent = given.get((), Fraction(0))
        if any(given) or exponent.denominator != 1:
            raise NotAPolynomial("an exponent is no whole number")
        times = int(exponent)
        if times < 0:
            base, times = _inverse(base), -times
        if len(base) != 1:
            _within(times, DEGREE, "an exponent")
            made: Polynomial = {(): Fraction(1)}
            for _ in range(times if base or not times else 1):
                made = self._product(made, base)
            return made
        ((monomial, value),) = base.items()
        _within(times * (_size(value) if abs(value) != 1 else 0), BITS, "a coefficient's bits")
        return {tuple((name, _degree(power * times)) for name, power in monomial if times): value**times}


def _number(word: str) -> Polynomial:
    if len(word) > DIGITS:
        raise NotAPolynomial(f"a number has more than {DIGITS} digits")
    return {(): Fraction(word)} if Fraction(word) else {}


def _monomial(word: str) -> Polynomial:
    coefficient, *powers = re.split(r"\s+", word[1:])
    over = coefficient.partition("/")[2]
    if max(len(coefficient), *map(len, powers)) > DIGITS or over and not int(over):
        raise NotAPolynomial(f"'C{coefficient[:20]}' is no coefficient")
    names = enumerate((int(power[1:]) for power in powers), start=1)
    made = {tuple((f"E{place:02}", _degree(power)) for place, power in names if power): Fraction(coefficient)}
    return {monomial: value for monomial, value in made.items() if value}


def _negative(polynomial: Polynomial) -> Polynomial:
    return {monomial: -value for monomial, value in polynomial.items()}


def _inverse(polynomial: Polynomial) -> Polynomial:
    if set(polynomial) != {()}:
        raise NotAPolynomial("it divides by 0" if not polynomial else f"it divides by {written(polynomial)}")
    return {(): 1 / polynomial[()]}


def _joined(one: Monomial, other: Monomial) -> Monomial:
    if not (one and other):
        return one or other
    powers = dict(one)
    for name, power in other:
        powers[name] = _degree(powers.get(name, 0) + power)
    return tuple(sorted(powers.items()))


def _degree(power: int) -> int:
    return _within(power, DEGREE, "an exponent")


def _size(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _within(value: int, most: int, what: str) -> int:
    if value > most:
        raise NotAPolynomial(f"{what} would be above {most:,}")
    return value
