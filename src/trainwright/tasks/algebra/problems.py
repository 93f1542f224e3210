"""Tasks: each makes a problem with its answer from a seed, and says which answers are the same by algebra.

Polynomials are written as `3*x^2 - 2*x + 1`, several things with ` | ` between them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainwright.errors import ConfigError, did_you_mean
from trainwright.tasks.algebra import forms
from trainwright.tasks.algebra.lexer import Lexer, read_lexer

Pair = tuple[str, str]
P = 17
GF = 7  # of polynomials that are factored
MOST = 60  # of a matrix's numbers
GREATEST = 45  # coefficient of a derivative


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: as files and commands name it.
        make: `f(rng)` returns (problem, answer).
        form: the normal form of an answer, by which it is right also if it is written otherwise.
        lexer: the content of its lexer.yaml.
        text: what is asked.
        problem_form: a text that is the same for all problems that are one; training and test data share none.
        longer: makes problems longer than those of `make`, of the same tokens.
    """

    name: str
    make: Callable[[random.Random], Pair]
    form: forms.Form
    lexer: dict[str, Any]
    text: str
    problem_form: Callable[[str], str] = forms.as_made
    longer: Callable[[random.Random], Pair] | None = None

    @property
    def check(self) -> forms.Checker:
        """What decides whether an answer is right: `check(problem, reference, answer)`, as this task's lexer writes
        them."""
        return self.checker(read_lexer(self.lexer, self.name))

    def checker(self, lexer: Lexer) -> forms.Checker:
        """Return what decides about the texts of a lexer."""
        return forms.Checker(self.form, lexer.joined)


def join(items: list[Any]) -> str:
    """Return things as text, ` | ` between them."""
    return " | ".join(str(item) for item in items)


def polynomial(coefficients: list[int]) -> str:
    """Return a polynomial in x as text, the highest power first; coefficients from the lowest power on."""
    terms = []
    for power in range(len(coefficients) - 1, -1, -1):
        value = coefficients[power]
        if not value:
            continue
        size = abs(value)
        factor = "" if size == 1 and power else str(size)
        name = "" if power == 0 else "x" if power == 1 else f"x^{power}"
        sign = "-" if value < 0 else "+"
        terms.append((sign, f"{factor}*{name}" if factor and name else factor + name))
    if not terms:
        return "0"
    first = ("-" if terms[0][0] == "-" else "") + terms[0][1]
    return " ".join([first, *(f"{sign} {term}" for sign, term in terms[1:])])


def _random(rng: random.Random, degree: int, size: int) -> list[int]:
    made = [rng.randint(-size, size) for _ in range(degree)]
    return [*made, rng.choice([one for one in range(-size, size + 1) if one])]


def add(a: list[int], b: list[int]) -> list[int]:
    """Return the sum of two polynomials."""
    width = max(len(a), len(b))
    return [(a[i] if i < len(a) else 0) + (b[i] if i < len(b) else 0) for i in range(width)]


def multiply(a: list[int], b: list[int]) -> list[int]:
    """Return the product of two polynomials."""
    made = [0] * (len(a) + len(b) - 1)
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            made[i + j] += one * other
    return made


def _sums(rng: random.Random) -> Pair:
    numbers = [rng.randrange(P) for _ in range(rng.randint(3, 6))]
    return join(numbers), join([sum(numbers[: i + 1]) % P for i in range(len(numbers))])


def _derivative(rng: random.Random) -> Pair:
    return _differentiated(_random(rng, rng.randint(1, 5), 9))


def _long_derivative(rng: random.Random) -> Pair:
    """Return one of degree 6 to 8 without a gap, whose coefficients the vocabulary has."""
    sizes = [9, *(min(9, GREATEST // power) for power in range(1, rng.randint(6, 8) + 1))]
    return _differentiated([rng.choice((-1, 1)) * rng.randint(2, size) for size in sizes])


def _differentiated(given: list[int]) -> Pair:
    return polynomial(given), polynomial([power * value for power, value in enumerate(given)][1:])


def _sum(rng: random.Random) -> Pair:
    a, b = (_random(rng, rng.randint(1, 4), 20) for _ in range(2))
    return join([polynomial(a), polynomial(b)]), polynomial(add(a, b))


def _product(rng: random.Random) -> Pair:
    a, b = (_random(rng, rng.randint(1, 2), 9) for _ in range(2))
    return join([polynomial(a), polynomial(b)]), polynomial(multiply(a, b))


def _division(rng: random.Random) -> Pair:
    quotient, divisor = _random(rng, rng.randint(1, 2), 5), [*_random(rng, rng.randint(0, 1), 5), 1]
    rest = [rng.randint(-5, 5) for _ in range(len(divisor) - 1)]
    problem = join([polynomial(add(multiply(quotient, divisor), rest)), polynomial(divisor)])
    return problem, join([polynomial(quotient), polynomial(rest)])


def _gcd(rng: random.Random) -> Pair:
    import sympy

    shared, a, b = ([*(rng.randint(-4, 4) for _ in range(rng.randint(1, 2))), 1] for _ in range(3))
    one, other = multiply(shared, a), multiply(shared, b)
    x = sympy.Symbol("x")
    found = sympy.gcd(sympy.Poly(one[::-1], x), sympy.Poly(other[::-1], x))
    return join([polynomial(one), polynomial(other)]), polynomial([int(c) for c in found.all_coeffs()[::-1]])


def _factors(rng: random.Random) -> Pair:
    import sympy

    numbers = [rng.randint(2, 60) for _ in range(2)]
    found = sympy.factorint(numbers[0] * numbers[1])
    return str(numbers[0] * numbers[1]), join([prime for prime in sorted(found) for _ in range(found[prime])])


def _polynomial_factors(rng: random.Random) -> Pair:
    import sympy

    whole = [1]
    for _ in range(rng.randint(2, 3)):
        whole = multiply(whole, [rng.randint(-5, 5), 1])
    x = sympy.Symbol("x")
    _, found = sympy.factor_list(sympy.Poly(whole[::-1], x))
    parts = sorted(([int(c) for c in part.all_coeffs()[::-1]], n) for part, n in found)
    return polynomial(whole), join([polynomial(part) for part, n in parts for _ in range(n)])


def _factors_modulo(rng: random.Random) -> Pair:
    from sympy import ZZ
    from sympy.polys.galoistools import gf_factor

    whole = [1]
    for _ in range(rng.randint(2, 3)):
        whole = [one % GF for one in multiply(whole, [*(rng.randrange(GF) for _ in range(rng.randint(1, 2))), 1])]
    _, found = gf_factor(whole[::-1], GF, ZZ)
    parts = sorted(([int(one) for one in part[::-1]], times) for part, times in found)
    return polynomial(whole), join([polynomial(part) for part, times in parts for _ in range(times)])


def _parity(rng: random.Random) -> Pair:
    bits = [rng.randrange(2) for _ in range(rng.randint(5, 20))]
    return join(bits), str(sum(bits) % 2)


def _eigenvalues(rng: random.Random) -> Pair:
    while True:
        values = sorted(rng.randint(-5, 5) for _ in range(3))
        a, b, c, d, e, f = (rng.randint(-2, 2) for _ in range(6))
        # P · D · P⁻¹ with P of determinant 1, a lower times an upper unitriangular one, so that all numbers are whole
        change = _times([[1, 0, 0], [a, 1, 0], [b, c, 1]], [[1, d, e], [0, 1, f], [0, 0, 1]])
        back = _times([[1, -d, d * f - e], [0, 1, -f], [0, 0, 1]], [[1, 0, 0], [-a, 1, 0], [a * c - b, -c, 1]])
        diagonal = [[values[0], 0, 0], [0, values[1], 0], [0, 0, values[2]]]
        matrix = _times(_times(change, diagonal), back)
        above, below = (matrix[0][1], matrix[0][2], matrix[1][2]), (matrix[1][0], matrix[2][0], matrix[2][1])
        # the eigenvalues of a triangular matrix are its diagonal
        if any(above) and any(below) and all(abs(one) <= MOST for row in matrix for one in row):
            return " || ".join(join(row) for row in matrix), join(values)


def _times(a: list[list[int]], b: list[list[int]]) -> list[list[int]]:
    return [[sum(one * other for one, other in zip(row, column, strict=True)) for column in zip(*b, strict=True)]
            for row in a]  # fmt: skip


def _groebner(rng: random.Random) -> Pair:
    import sympy

    x, y = sympy.symbols("x y")
    given = []
    for _ in range(2):
        terms = [rng.randint(-3, 3) * x**i * y**j for i in range(3) for j in range(3 - i) if rng.random() < 0.5]
        given.append(sympy.expand(sum(terms, sympy.Integer(0)) + x))
    basis = sympy.groebner(given, x, y, order="lex")
    return join([_plain(one) for one in given]), join([_plain(one) for one in basis.exprs])


def _plain(expression: Any) -> str:
    return str(expression).replace("**", "^")


def _lexer(least: int, greatest: int, misc: tuple[str, ...] = (), attach_sign: bool = False) -> dict[str, Any]:
    return {
        "vocab": {"range": {"numbers": ["", least, greatest]}, "misc": list(misc)},
        "number_policy": {"attach_sign": attach_sign, "digit_group": 0, "allow_float": False},
        "strict": True,
    }


def _digits(misc: tuple[str, ...]) -> dict[str, Any]:
    made = _lexer(0, 9, misc)
    made["number_policy"]["digit_group"] = 1
    return made


_X, _XY = ("x",), ("x", "y")
TASKS = {
    task.name: task
    for task in (
        Task("gf17_sum", _sums, forms.residues_modulo_17, _lexer(0, 16), "cumulative sums of numbers modulo 17"),
        Task(
            "derivative", _derivative, forms.polynomials, _lexer(0, GREATEST, _X), "derivative of a polynomial",
            longer=_long_derivative,
        ),
        Task("polynomial_sum", _sum, forms.polynomials, _lexer(0, 40, _X), "sum of two polynomials", forms.any_order),
        Task(
            "polynomial_product", _product, forms.polynomials, _lexer(0, 243, _X), "product of two polynomials",
            forms.any_order,
        ),
        Task("polynomial_division", _division, forms.polynomials, _lexer(0, 60, _X), "quotient and remainder"),
        Task(
            "polynomial_gcd", _gcd, forms.up_to_sign, _digits(_X), "greatest common divisor of two polynomials over Z",
            forms.any_order,
        ),
        Task("polynomial_factors", _polynomial_factors, forms.factors, _digits(_X), "factors of a polynomial over Z"),
        Task(
            "gf7_factors", _factors_modulo, forms.factors_modulo_7, _digits(_X), "factors of a polynomial over GF(7)"
        ),
        Task("integer_factors", _factors, forms.prime_factors, _digits(()), "prime factors of a number"),
        Task(
            "eigenvalues", _eigenvalues, forms.numbers_in_any_order, _lexer(-MOST, MOST, (), True),
            "eigenvalues of a 3×3 matrix",
        ),
        Task("parity", _parity, forms.numbers, _lexer(0, 1), "whether the number of ones is odd"),
        Task(
            "groebner", _groebner, forms.basis, _digits(_XY),
            "reduced Gröbner basis of two polynomials over Q, lex order", forms.any_order_and_sign,
        ),
    )
}  # fmt: skip


def task_named(name: str) -> Task:
    """Return a task.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in TASKS:
        raise ConfigError(f"There is no task '{name}'.{did_you_mean(name, TASKS)} Known: {', '.join(TASKS)}.")
    return TASKS[name]
