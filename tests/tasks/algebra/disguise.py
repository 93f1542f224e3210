"""Answers for the checkers: references, the same ones in disguise, and others close by, as texts with what they are."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import prod

from trainwright.errors import DataError
from trainwright.tasks.algebra.lexer import read_lexer
from trainwright.tasks.algebra.problems import TASKS

Poly = dict[tuple[int, ...], Fraction]
"""Coefficients by exponents of the variables."""
VARIABLES = ("x", "y")


@dataclass
class Case:
    """One answer beside its reference.

    Attributes:
        wanted, given: the parts of both, as polynomials; numbers are constant ones.
        reference, answer: their texts.
        problem: what was asked.
    """

    problem: str
    wanted: list[Poly]
    given: list[Poly]
    reference: str
    answer: str


def constant(value: int | Fraction) -> Poly:
    return {(0, 0): Fraction(value)} if value else {}


def add(a: Poly, b: Poly, factor: int | Fraction = 1) -> Poly:
    made = {powers: a.get(powers, Fraction(0)) + factor * b.get(powers, Fraction(0)) for powers in {**a, **b}}
    return {powers: value for powers, value in made.items() if value}


def times(a: Poly, b: Poly) -> Poly:
    made: Poly = {}
    for (i, j), one in a.items():
        for (k, m), other in b.items():
            made[i + k, j + m] = made.get((i + k, j + m), Fraction(0)) + one * other
    return {powers: value for powers, value in made.items() if value}


def plain(poly: Poly) -> str:
    """The polynomial as one would write it."""
    terms = [(value, [f"{n}^{p}" if p > 1 else n for n, p in zip(VARIABLES, powers, strict=True) if p])
             for powers, value in sorted(poly.items(), reverse=True)]  # fmt: skip
    texts = ["*".join([str(abs(v)), *names] if abs(v) != 1 or not names else names) for v, names in terms]
    made = "".join((" - " if v < 0 else " + ") + text for (v, _), text in zip(terms, texts, strict=True))
    return (made.removeprefix(" + ") if made.startswith(" + ") else "-" + made.removeprefix(" - ")) if made else "0"


class Writer:
    """Writes polynomials in disguise; `numbers` alone are signs, zeros before, and fractions that are not reduced."""

    def __init__(self, rng: random.Random, brackets: bool = True) -> None:
        self.rng, self.brackets = rng, brackets

    def maybe(self, share: float) -> bool:
        return self.rng.random() < share

    def gap(self) -> str:
        return self.rng.choice(["", " ", " ", "  "])

    def number(self, value: Fraction) -> str:
        """A number on its own, as the tasks about numbers want it."""
        more = self.rng.choice([1, 1, 1, 2, 3])
        whole = value.denominator * more == 1 or self.maybe(0.7) and value.denominator == 1
        digits = self.rng.choice(["", "", "0"]) + str(abs(value.numerator) * (1 if whole else more))
        sign = self.rng.choice(["-", "- ", "+-", "- - -"] if value < 0 else ["", "", "+", "- -"])
        return sign + digits + ("" if whole else f"/{value.denominator * more}")

    def factor(self, value: Fraction) -> str:
        """A number that is not negative, within a product."""
        if value.denominator > 1:
            return self.rng.choice(
                [f"{value.numerator}/{value.denominator}", f"({value.numerator}/{value.denominator})"]
            )
        return self.rng.choice(["{}", "{}", "{}*1", "1*{}", "{}^1", "0{}"]).format(value.numerator)

    def power(self, name: str, power: int) -> str:
        kinds = [
            f"{name}^{power}",
            f"{name} ^ {power}",
            f"{name}**{power}",
            f"{name}^+{power}",
            "*".join([name] * power),
        ]
        return self.rng.choice(kinds if power > 1 else [name, name, f"{name}^1"])

    def term(self, value: Fraction, powers: tuple[int, ...]) -> str:
        """A term without its sign."""
        names = [self.power(name, power) for name, power in zip(VARIABLES, powers, strict=True) if power]
        if abs(value) != 1 or not names or self.maybe(0.1):
            names.insert(0 if self.maybe(0.7) else len(names), self.factor(abs(value)))
        return f"{self.gap()}*{self.gap()}".join(names)

    def sum(self, poly: Poly) -> str:
        """The terms in any order, some in two pieces, some zero."""
        pieces = []
        for powers, value in poly.items():
            part = Fraction(self.rng.randint(-3, 3)) if self.maybe(0.15) else Fraction(0)
            pieces += [(v, powers) for v in (value - part, part) if v]
        pieces += [(Fraction(0), (self.rng.randint(0, 3), 0))] * self.maybe(0.1)
        self.rng.shuffle(pieces)
        made = ""
        for value, powers in pieces:
            signs = ["-", "-", "+-", "-+", "---"] if value < 0 else ["+", "+", "--", "- -"]
            if not made and value >= 0:
                signs += ["", "", ""]
            made += f"{self.gap()}{self.rng.choice(signs)}{self.gap()}{self.term(value, powers)}"
        return made.strip() or self.rng.choice(["0", "-0", "0*x", "x - x"])

    def polynomial(self, poly: Poly) -> str:
        """Any form of a polynomial, with brackets where they may be."""
        if not self.brackets or self.maybe(0.6):
            return self.sum(poly)
        root = self.rng.choice([constant(2), {(1, 0): Fraction(1)}, {(1, 0): Fraction(1), (0, 0): Fraction(-1)}])
        other = {(self.rng.randint(0, 2), 0): Fraction(self.rng.randint(-2, 2) or 1), (0, 0): Fraction(1)}
        rest = add(poly, times(root, other), -1)
        texts = [f"({self.sum(root)})*({self.sum(other)})", f"({self.sum(rest)})"]
        self.rng.shuffle(texts)
        return self.rng.choice(["{} + {}", "-(-({})-({}))", "(({}) + {})^1", "2*({}*1/2) + {}"]).format(*texts)


def polynomial(rng: random.Random, fractions: bool, degree: int = 4) -> Poly:
    """A random polynomial in x; zero and constants among them."""
    made: Poly = {}
    for power in range(rng.randint(0, degree) + 1):
        value = Fraction(rng.randint(-9, 9), rng.choice([1, 1, 2, 3]) if fractions else 1)
        made |= {(power, 0): value} if value else {}
    return made


IRREDUCIBLE = ({1: 1}, {1: 1, 0: 1}, {1: 1, 0: -3}, {1: 2, 0: 1}, {1: 3, 0: -2}, {2: 1, 0: 1}, {2: 1, 1: 1, 0: 1},
               {2: 1, 0: -2}, {2: 2, 1: 1, 0: 3}, {3: 1, 0: -2}, {0: 2}, {0: 3})  # fmt: skip


def parsed(text: str) -> list[Poly]:
    """What the generators write: `3*x^2 - x*y + 1 | 7`, or with `||`."""
    parts = []
    for part in text.replace("||", "|").split("|"):
        poly: Poly = {}
        for term in part.replace(" ", "").replace("-", "+-").split("+"):
            powers, value = [0, 0], Fraction(-1 if term.startswith("-") else 1)
            for factor in filter(None, term.removeprefix("-").split("*")):
                name, _, power = factor.partition("^")
                if name in VARIABLES:
                    powers[VARIABLES.index(name)] += int(power or 1)
                else:
                    value *= int(name)
            poly = add(poly, {(powers[0], powers[1]): value}) if term else poly
        parts.append(poly)
    return parts


def problem_of(name: str, rng: random.Random) -> tuple[str, list[Poly]]:
    """A problem, empty where the reference alone matters, and the reference."""
    if name in ("derivative", "polynomial_sum", "polynomial_product", "polynomial_division"):
        return "", [polynomial(rng, True) for _ in range(2 if name == "polynomial_division" else 1)]
    if name == "polynomial_gcd":
        return "", [polynomial(rng, False, 3)]
    if name == "polynomial_factors" and rng.random() < 0.5:
        chosen = [{(p, 0): Fraction(v) for p, v in rng.choice(IRREDUCIBLE).items()} for _ in range(rng.randint(1, 3))]
        whole = constant(1)
        for one in chosen:
            whole = times(whole, one)
        return plain(whole), chosen
    seed = rng.randrange(300 if name == "groebner" else 10**6)
    problem, answer = TASKS[name].make(random.Random(seed))
    return problem, parsed(answer)


def units(name: str, rng: random.Random) -> list[Fraction]:
    """Numbers that may be multiplied to a part, and some that may not."""
    free = {"gf7_factors": [Fraction(n) for n in (1, 2, 3, 8, -1)] + [Fraction(1, 2), Fraction(-3, 5)],
            "groebner": [Fraction(n) for n in (1, -1, 2, -5)] + [Fraction(1, 3), Fraction(-7, 4)]}  # fmt: skip
    return free.get(name, [Fraction(1), Fraction(-1)])


def equal(name: str, parts: list[Poly], rng: random.Random) -> list[Poly]:
    """The same answer otherwise: units, order, representatives, where the task has such."""
    made = [dict(part) for part in parts]
    if name in ("polynomial_gcd", "polynomial_factors", "gf7_factors", "integer_factors", "groebner"):
        made = [times(part, constant(rng.choice(units(name, rng)))) for part in made]
    if name.endswith("factors") and rng.random() < 0.2:
        made.append(constant(rng.choice(units(name, rng))))
    if name in ("gf17_sum", "gf7_factors"):
        prime = 17 if name == "gf17_sum" else 7
        more = [{(rng.randint(0, 3) if prime == 7 else 0, 0): Fraction(prime * rng.randint(-2, 2))} for _ in made]
        made = [add(part, one) for part, one in zip(made, more, strict=True)]
    if name.endswith("factors") or name in ("groebner", "eigenvalues"):
        rng.shuffle(made)
    return made


def near(name: str, parts: list[Poly], rng: random.Random) -> list[Poly]:
    """Another answer close by; now and then still the same one."""
    made = equal(name, parts, rng)
    place = rng.randrange(len(made))
    one = made[place]
    step = Fraction(rng.choice([-1, 1]), rng.choice([1, 1, 1, 2]))
    numbers = name in ("gf17_sum", "integer_factors", "eigenvalues", "parity")
    kinds: list[Callable[[], object]] = [
        lambda: made.__setitem__(place, add(one, {(0 if numbers else rng.randint(0, 3), 0): step})),
        lambda: made.__setitem__(place, times(one, constant(rng.choice([-1, 2, 3, Fraction(1, 2), 0])))),
        lambda: made.append(dict(rng.choice(made))),
        lambda: made.pop(place) if len(made) > 1 else made.append({}),
        lambda: made.reverse(),
    ]
    if not numbers:
        kinds += [
            lambda: made.__setitem__(place, {powers: -v if powers[0] else v for powers, v in one.items()}),
            lambda: made.__setitem__(place, {(i + 1, j): v for (i, j), v in one.items()}),
        ]
        if len(made) > 1:
            kinds.append(lambda: made.__setitem__(slice(0, 2), [times(made[0], made[1])]))
            kinds.append(lambda: made.__setitem__(0, add(made[0], made[1])))
    elif len(made) > 1:
        kinds.append(lambda: made.__setitem__(slice(0, 2), [constant(prod(p.get((0, 0), 0) for p in made[:2]))]))
    rng.choice(kinds)()
    return made


def as_tokens(name: str, text: str) -> str:
    """The text as an evaluation hands it over, where the task's lexer can read it."""
    lexer = read_lexer(TASKS[name].lexer, name)
    try:
        return lexer.decode(lexer.encode(text))
    except DataError:
        return text


def case(name: str, seed: int) -> Case:
    """One pair of a task, equal or not by turns."""
    rng = random.Random(f"{name}/{seed}")
    problem, wanted = problem_of(name, rng)
    given = (equal, near)[seed % 2](name, wanted, rng)
    writer = Writer(rng)
    numbers = name in ("gf17_sum", "integer_factors", "eigenvalues", "parity")
    texts = [writer.number(p.get((0, 0), Fraction(0))) if numbers else writer.polynomial(p) for p in given]
    reference = " | ".join(map(plain, wanted))
    answer = rng.choice([" | ", "|"]).join(texts)
    return Case(problem, wanted, given, as_tokens(name, reference), as_tokens(name, answer))
