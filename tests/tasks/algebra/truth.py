"""Whether an answer is right, by sympy from its text and by FLINT from its coefficients; none of it is ours."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import reduce
from operator import mul
from typing import Any

import sympy

from tests.tasks.algebra.disguise import Case, Poly, parsed
from trainwright.tasks.algebra.lexer import read_lexer
from trainwright.tasks.algebra.problems import TASKS

x, y = sympy.symbols("x y")


def by_sympy(name: str, case: Case) -> bool:
    """The verdict from the texts."""
    joined = read_lexer(TASKS[name].lexer, name).joined
    wanted, given = (read(joined(text)) for text in (case.reference, case.answer))
    if name == "groebner":
        return _basis(read(case.problem), wanted, given)
    return SYMPY.get(name, _equal)(wanted, given)


def by_flint(name: str, case: Case) -> bool:
    """The verdict from the coefficients, and from the problem where there is one."""
    if name in ("groebner", "eigenvalues"):
        return {"groebner": _flint_basis, "eigenvalues": _flint_eigenvalues}[name](case)
    return FLINT.get(name, _flint_equal)(case.wanted, case.given)


def read(text: str) -> list[Any]:
    # Python has no zeros before a number
    text = re.sub(r"\b0+(?=\d)", "", text.replace("^", "**").replace("* *", "**"))
    return [sympy.sympify(part, locals={"x": x, "y": y}, rational=True) for part in text.split("|")]


def polys(expressions: list[Any]) -> list[Any]:
    return [sympy.Poly(one, x, domain="QQ") for one in expressions]


def whole(given: list[Any]) -> bool:
    return all(c.is_integer for poly in given for c in poly.coeffs())


def positive(poly: Any) -> Any:
    return -poly if poly.LC() < 0 else poly


def irreducibles(given: list[Any]) -> list[Any] | None:
    """The irreducible factors over Z up to sign, units left out; None where a part is zero or can be factored."""
    found = []
    for poly in given:
        if poly.is_zero:
            return None
        content, parts = sympy.factor_list(poly.as_expr(), x)
        numbers = sympy.factorint(abs(int(content)))
        if sum(numbers.values()) + sum(n for _, n in parts) > 1:
            return None
        found += [positive(poly)] if numbers or parts else []
    return sorted(found, key=str)


def _equal(wanted: list[Any], given: list[Any]) -> bool:
    return len(wanted) == len(given) and all(sympy.expand(a - b) == 0 for a, b in zip(wanted, given, strict=True))


def _residues(wanted: list[Any], given: list[Any]) -> bool:
    pairs = zip(wanted, given, strict=len(wanted) == len(given))
    return len(wanted) == len(given) and all((a * b.q - b.p) % 17 == 0 for a, b in pairs)


def _divisor(wanted: list[Any], given: list[Any]) -> bool:
    return whole(polys(given)) and list(map(positive, polys(wanted))) == list(map(positive, polys(given)))


def _factors(wanted: list[Any], given: list[Any]) -> bool:
    if not whole(polys(given)):
        return False
    found = irreducibles(polys(given))
    return found is not None and irreducibles(polys(wanted)) == found


def _factors_modulo_7(wanted: list[Any], given: list[Any]) -> bool:
    if any(c.q % 7 == 0 for one in polys(given) for c in one.coeffs()):
        return False
    sides = ([sympy.Poly([c.p * pow(c.q, -1, 7) for c in one.all_coeffs()], x, modulus=7) for one in polys(side)]
             for side in (wanted, given))  # fmt: skip
    asked, found = sides
    monic = [sorted((p.monic() for p in side if p.degree() > 0), key=str) for side in (asked, found)]
    return not any(p.is_zero for p in found) and monic[0] == monic[1]


def _basis(problem: list[Any], wanted: list[Any], given: list[Any]) -> bool:
    asked, found = ([sympy.Poly(one, x, y, domain="QQ") for one in side] for side in (wanted, given))
    if any(p.is_zero for p in found):
        return found == asked
    basis = sympy.groebner(problem, x, y, order="lex", domain="QQ").polys
    return sorted((p.monic() for p in found), key=str) == sorted((p.monic() for p in basis), key=str)


SYMPY = {
    "gf17_sum": _residues,
    "polynomial_gcd": _divisor,
    "polynomial_factors": _factors,
    "integer_factors": _factors,
    "gf7_factors": _factors_modulo_7,
    "eigenvalues": lambda wanted, given: sorted(wanted) == sorted(given),
}


def column(poly: Poly) -> list[Fraction]:
    """Coefficients of a polynomial in x, from the lowest power on."""
    return [poly.get((power, 0), Fraction(0)) for power in range(max((i for i, _ in poly), default=-1) + 1)]


def fractions(poly: Poly) -> Any:
    import flint

    return flint.fmpq_poly([flint.fmpq(c.numerator, c.denominator) for c in column(poly)])


def integral(given: list[Poly]) -> Any:
    """The polynomials over Z; None where one is not."""
    import flint

    if any(c.denominator != 1 for poly in given for c in poly.values()):
        return None
    return [flint.fmpz_poly([int(c) for c in column(poly)]) for poly in given]


def modulo(given: list[Poly], prime: int) -> Any:
    """The polynomials over GF(p); None where a denominator is 0 there."""
    import flint

    if any(c.denominator % prime == 0 for poly in given for c in poly.values()):
        return None
    return [flint.nmod_poly([flint.nmod(c.numerator, prime) / flint.nmod(c.denominator, prime) for c in column(poly)],
                            prime) for poly in given]  # fmt: skip


def _flint_equal(wanted: list[Poly], given: list[Poly]) -> bool:
    return list(map(fractions, given)) == list(map(fractions, wanted))


def _flint_divisor(wanted: list[Poly], given: list[Poly]) -> bool:
    asked, found = integral(wanted), integral(given)
    if found is None or len(asked) != len(found):
        return False
    return all(a in (b, -b) for a, b in zip(asked, found, strict=True))


def _flint_factors(wanted: list[Poly], given: list[Poly]) -> bool:
    asked, found = integral(wanted), integral(given)
    if found is None or not all(found):
        return False
    product = reduce(mul, found)
    return product in (reduce(mul, asked), -reduce(mul, asked)) and all(map(_is_prime_or_unit, found))


def _is_prime_or_unit(poly: Any) -> bool:
    content, parts = poly.factor()
    return sum(n for _, n in abs(content).factor()) + sum(n for _, n in parts) <= 1


def _flint_factors_modulo_7(wanted: list[Poly], given: list[Poly]) -> bool:
    asked, found = modulo(wanted, 7), modulo(given, 7)
    if found is None or not all(map(len, found)) or any(sum(n for _, n in one.factor()[1]) > 1 for one in found):
        return False
    one, other = reduce(mul, asked), reduce(mul, found)
    return one / one[one.degree()] == other / other[other.degree()]


def _flint_eigenvalues(case: Case) -> bool:
    import flint

    matrix = flint.fmpz_mat(3, 3, [int(n) for n in case.problem.replace("||", "|").split("|")])
    root = flint.fmpq_poly([0, 1])
    return reduce(mul, [root - fractions(one) for one in case.given]) == flint.fmpq_poly(matrix.charpoly())


def _flint_basis(case: Case) -> bool:
    """Whether the answer is a Gröbner basis of the problem's ideal, and reduced."""
    import flint

    ring = flint.fmpz_mpoly_ctx.get(("x", "y"), "lex")

    def vector(given: list[Poly]) -> Any:
        made = []
        for poly in given:
            below = reduce(mul, (value.denominator for value in poly.values()))
            one = ring.from_dict({powers: int(value * below) for powers, value in poly.items()})
            # FLINT's reduced ones are primitive, their leading coefficients positive
            made.append(one / (one.content() if one.leading_coefficient() > 0 else -one.content()))
        return flint.fmpz_mpoly_vec(made, ring)

    if not all(case.given):
        return False
    answer, asked = vector(case.given), vector([poly for poly in parsed(case.problem) if poly])
    basis = asked.buchberger_naive().autoreduction()
    return answer.is_autoreduced() and answer.is_groebner(asked) and basis.is_groebner(answer)


FLINT = {
    "gf17_sum": lambda wanted, given: modulo(wanted, 17) == modulo(given, 17),
    "polynomial_gcd": _flint_divisor,
    "polynomial_factors": _flint_factors,
    "integer_factors": _flint_factors,
    "gf7_factors": _flint_factors_modulo_7,
}
