"""Expressions of the whole grammar, written in tokens and read back, against sympy; and texts of any kind."""

from __future__ import annotations

import contextlib
import itertools
import re
from fractions import Fraction
from functools import cache

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from trainwright import DataError
from trainwright.tasks.algebra.expressions import NotAPolynomial, read, written
from trainwright.tasks.algebra.lexer import read_lexer
from trainwright.tasks.algebra.problems import TASKS

x, y = sympy.symbols("x y")
LEAST, GREATEST = -120, 120
GAPS = st.sampled_from(["", " ", "  "])
POLICIES = list(itertools.product((False, True), range(4)))  # whether signs are attached, and digits of a token
NUMBERS = st.sampled_from("1 2 3 7 10 12 99 105 120".split())


def larger(inner):
    """Expressions out of smaller ones."""
    operand = inner.map("({})".format) | st.sampled_from(["x", "y"]) | NUMBERS
    signed = st.tuples(st.sampled_from(["", "", "-", "+", "- -"]), operand).map("".join)
    power = st.tuples(operand, GAPS, st.sampled_from(["^0", "^1", "^2", "^ 3", "^+2", "^2^1"])).map("".join)
    divisor = st.integers(1, 9).map(str) | st.sampled_from(["-3", "(1 + 1)", "2^2"])
    return st.one_of(
        st.tuples(inner, GAPS, st.sampled_from("+-"), GAPS, signed).map("".join),
        st.tuples(operand, GAPS, st.just("*"), GAPS, signed).map("".join),
        st.tuples(operand, GAPS, st.just("/"), divisor).map("".join),
        st.tuples(st.sampled_from(["", "-"]), power).map("".join),
    )


EXPRESSIONS = st.recursive(st.sampled_from(["x", "y"]) | NUMBERS, larger, max_leaves=6)
FORMULA = [*"+-*^/()|xy0123456789", "||", "45", "105", "120", " "]
ANYTHING = [*FORMULA, *"[].CE", "**", "C1", "E2", "1/0", "²", "٣", "é", "\ud800", "\0", "\n"]
ANSWERS = ["1/0", "3/17", "1/7", "-1", "0", "2", "x", "x^2 - 1", "1/0*x"]
TEXTS = st.one_of(
    st.lists(st.sampled_from(FORMULA), max_size=12).map("".join),
    st.lists(st.sampled_from(ANYTHING), max_size=12).map("".join),
    st.lists(st.sampled_from(ANYTHING), max_size=12).map(" ".join),
    st.lists(st.sampled_from(ANSWERS), max_size=4).map(" | ".join),
)
COEFFICIENTS = st.fractions(-20, 20, max_denominator=9).filter(bool)
MONOMIALS = st.dictionaries(st.sampled_from("abxyz"), st.integers(1, 6)).map(lambda one: tuple(sorted(one.items())))


@cache
def lexer_of(attach_sign, digit_group):
    vocab = {"range": {"numbers": ["", LEAST, GREATEST]}, "misc": ["x", "y"]}
    policy = {"attach_sign": attach_sign, "digit_group": digit_group}
    return read_lexer({"vocab": vocab, "number_policy": policy}, "lexer.yaml")


def by_sympy(text):
    """The polynomial as sympy reads it, as ours is kept."""
    found = sympy.Poly(sympy.sympify(text.replace("^", "**"), locals={"x": x, "y": y}, rational=True), x, y)
    return {
        tuple((name, power) for name, power in zip("xy", powers, strict=True) if power): Fraction(int(c.p), int(c.q))
        for powers, c in found.terms()
        if c
    }


@given(EXPRESSIONS)
def test_what_is_written_in_tokens_is_read_back_as_sympy_reads_it(text):
    wanted = by_sympy(text)
    assert read(text) == wanted
    for attach_sign, digit_group in POLICIES:
        lexer = lexer_of(attach_sign, digit_group)
        assert read(lexer.joined(lexer.decode(lexer.encode(text)))) == wanted


@given(st.dictionaries(MONOMIALS, COEFFICIENTS))
def test_a_polynomial_is_written_so_that_it_reads_back(polynomial):
    assert read(written(polynomial)) == polynomial


@given(TEXTS)
def test_a_lexer_reads_any_text_or_says_that_it_cannot(text):
    for attach_sign, digit_group in POLICIES:
        lexer = lexer_of(attach_sign, digit_group)
        with contextlib.suppress(DataError):
            tokens = lexer.tokenize(text)
            assert lexer.decode(lexer.encode(text)).split() == tokens
            joined = lexer.joined(" ".join(tokens))
            assert re.findall(r"\d+", joined) == re.findall(r"\d+", text)
            assert re.sub(r"\s", "", joined) == re.sub(r"\s", "", text)


@pytest.mark.parametrize("name", TASKS)
@given(TEXTS, st.integers(0, 2))
def test_a_checker_decides_about_any_text(name, text, digit_group):
    check = TASKS[name].checker(lexer_of(True, digit_group))
    assert check("", "1", text) in (True, False)
    try:
        check.form_of(text)
    except NotAPolynomial:
        return
    assert check("", text, text) is True
    assert check("", "1", text) is check("", text, "1")
