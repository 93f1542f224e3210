"""Which answers, and which problems, are the same: normal forms, equal for all ways to write one and for no others.

Polynomials count in every form that equals them, also with brackets. Numbers have to be written as numbers: `3 + 4` is
no way to write 7. Things have ` | ` between them, rows of things ` || `.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from fractions import Fraction

from trainwright.tasks.algebra.expressions import DIGITS, Monomial, NotAPolynomial, Polynomial, read, written

Form = Callable[[str], Hashable]
"""Returns the normal form of an answer; raises NotAPolynomial where there is none."""

_NUMBER = re.compile(rf"\s*((?:[+-]\s*)*)([0-9]{{1,{DIGITS}}})(?:\s*/\s*([0-9]{{1,{DIGITS}}}))?\s*")


@dataclass(frozen=True)
class Checker:
    """Decides whether an answer is the reference, however it is written.

    Attributes:
        form: the normal form of an answer.
        joined: of the lexer that the texts come from: puts the digits of a number together, which it writes apart.
    """

    form: Form
    joined: Callable[[str], str] = str

    def __call__(self, problem: str, reference: str, answer: str) -> bool:
        """Return whether an answer is right.

        Raises:
            NotAPolynomial: the reference is no answer of this task.
        """
        try:
            found = self.form_of(answer)
        except NotAPolynomial:
            return False
        return found == self.form_of(reference)

    def form_of(self, text: str) -> Hashable:
        """Return the normal form of an answer as its tokens stand, with spaces between them."""
        return self.form(self.joined(text))


def polynomials(text: str) -> Hashable:
    """Polynomials over Q, in their order."""
    return tuple(tuple(_frozen(read(one)) for one in row.split("|")) for row in text.split("||"))


def up_to_sign(text: str) -> Hashable:
    """Polynomials over Z, in their order; a greatest common divisor is one up to units, which are 1 and -1."""
    return tuple(_frozen(_positive(one)) for one in _whole(text))


def factors(text: str) -> Hashable:
    """Polynomials over Z in any order, each up to units; factors that are units do not count."""
    parts = [_frozen(_positive(one)) for one in _whole(text)]
    return _sorted([part for part in parts if part != _ONE])


def factors_modulo_7(text: str) -> Hashable:
    """Polynomials over GF(7) in any order, each up to units; factors that are units do not count."""
    parts = [_frozen(_monic(_modulo(read(one), 7), 7)) for one in _single_row(text)]
    return _sorted([part for part in parts if part != _ONE])


def basis(text: str) -> Hashable:
    """Polynomials over Q in any order, each up to units.

    A reduced Gröbner basis is unique up to these, so an answer with the reference's form is one.
    """
    return _sorted([_frozen(_monic(read(one))) for one in _single_row(text)])


def numbers(text: str) -> Hashable:
    """Numbers in their order."""
    return tuple(_number(one) for one in _single_row(text))


def numbers_in_any_order(text: str) -> Hashable:
    """Numbers in any order, each as often as it is there."""
    return tuple(sorted(_number(one) for one in _single_row(text)))


def residues_modulo_17(text: str) -> Hashable:
    """Residues modulo 17 in their order, by any of their representatives."""
    return tuple(_residue(_number(one), 17) for one in _single_row(text))


def prime_factors(text: str) -> Hashable:
    """Whole numbers in any order, each up to units; factors that are units do not count."""
    found = [abs(_number(one)) for one in _single_row(text)]
    if any(one.denominator != 1 for one in found):
        raise NotAPolynomial("a factor is no whole number")
    return tuple(sorted(one for one in found if one != 1))


def as_made(problem: str) -> str:
    """Return a problem that is always written alike."""
    return problem


def any_order(problem: str) -> str:
    """Return a problem whose parts are always written alike, and mean the same in any order, with these sorted."""
    return " | ".join(sorted(problem.split(" | ")))


def any_order_and_sign(problem: str) -> str:
    """Return polynomials that mean the same in any order and with any sign as text that is the same for all these."""
    return " | ".join(sorted(written(_positive(read(one))) for one in _single_row(problem)))


def alike(problem: str) -> str:
    """Return a problem with its numbers and polynomials as text that is the same for all ways to write them."""
    return " || ".join(" | ".join(map(_alike, row.split("|"))) for row in problem.split("||"))


def _alike(text: str) -> str:
    try:
        return written(read(text))
    except NotAPolynomial:
        return " ".join(text.split())


def _single_row(text: str) -> list[str]:
    if "||" in text:
        raise NotAPolynomial("'||' is between rows, and one row is expected")
    return text.split("|")


def _number(text: str) -> Fraction:
    match = _NUMBER.fullmatch(text)
    if match is None or (match[3] and not int(match[3])):
        raise NotAPolynomial(f"{text.strip()[:60]!r} is no number")
    value = Fraction(int(match[2]), int(match[3] or 1))
    return -value if match[1].count("-") % 2 else value


def _residue(value: Fraction, prime: int) -> int:
    if value.denominator % prime == 0:
        raise NotAPolynomial(f"{value} is no number modulo {prime}")
    return value.numerator * pow(value.denominator, -1, prime) % prime


def _whole(text: str) -> list[Polynomial]:
    parts = [read(one) for one in _single_row(text)]
    if any(value.denominator != 1 for part in parts for value in part.values()):
        raise NotAPolynomial("a coefficient is no whole number")
    return parts


def _leading(polynomial: Polynomial) -> Fraction:
    """Return the coefficient of one of the monomials, the same one whatever number all are multiplied by."""
    return polynomial[max(polynomial)]


def _positive(polynomial: Polynomial) -> Polynomial:
    return {m: -value for m, value in polynomial.items()} if polynomial and _leading(polynomial) < 0 else polynomial


def _monic(polynomial: Polynomial, prime: int = 0) -> Polynomial:
    made = {m: value / _leading(polynomial) for m, value in polynomial.items()}
    return _modulo(made, prime) if prime else made


def _modulo(polynomial: Polynomial, prime: int) -> Polynomial:
    residues = {monomial: Fraction(_residue(value, prime)) for monomial, value in polynomial.items()}
    return {monomial: value for monomial, value in residues.items() if value}


def _frozen(polynomial: Polynomial) -> tuple[tuple[Monomial, Fraction], ...]:
    return tuple(sorted(polynomial.items()))


def _sorted(parts: list[tuple[tuple[Monomial, Fraction], ...]]) -> Hashable:
    return tuple(sorted(parts))


_ONE = _frozen({(): Fraction(1)})
