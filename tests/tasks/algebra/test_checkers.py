"""Every checker against sympy and FLINT; what a model may write instead of an answer; and what a text stands for."""

from __future__ import annotations

import builtins
import importlib.util
import random

import pytest
import sympy

from tests.tasks.algebra import held
from tests.tasks.algebra.disguise import Writer, polynomial
from trainwright import DataError
from trainwright.tasks.algebra import expressions
from trainwright.tasks.algebra.expressions import NotAPolynomial, read, written
from trainwright.tasks.algebra.forms import alike, any_order, any_order_and_sign
from trainwright.tasks.algebra.lexer import read_lexer
from trainwright.tasks.algebra.preprocess import ExpandedForm, LastElement, ReversedOrder
from trainwright.tasks.algebra.problems import TASKS

x, y = sympy.symbols("x y")
PAIRS = 300


@pytest.mark.slow
@pytest.mark.parametrize("reference", held.REFERENCES)
@pytest.mark.parametrize("name", TASKS)
def test_a_checker_decides_as_another_algebra_does(name, reference):
    if reference == "FLINT" and importlib.util.find_spec("flint") is None:
        pytest.skip("python-flint is not installed")
    tally = held.compare(name, PAIRS, (reference,))
    assert not tally.wrong
    assert PAIRS / 3 < tally.right < PAIRS * 0.9  # many of both


RIGHT = [
    ("polynomial_factors", "x + 1 | x + 2", "-x - 1 | -x - 2"),
    ("polynomial_factors", "x + 1 | x + 2", "x + 2 | 1 | x + 1"),
    ("polynomial_factors", "x + 12 | x - 10", "x - 1 0 | x + 1 2"),
    ("gf7_factors", "x + 1 | x + 2", "2*x + 2 | 4*x + 1"),
    ("gf7_factors", "x + 1 | x + 2", "7*x^2 + x + 1 | x + 2"),
    ("gf7_factors", "x + 4", "x/2 + 2"),
    ("polynomial_gcd", "x + 1", "-x - 1"),
    ("polynomial_gcd", "x^2 + 12*x - 10", "1 2 * x + x ^ 2 - 1 0"),
    ("gf17_sum", "14 | 0", "-3 | 17"),
    ("gf17_sum", "9", "1/2"),
    ("integer_factors", "2 | 3", "3 | -2"),
    ("eigenvalues", "-3 | 2 | 3", "+3 | -3 | 02"),
    ("groebner", "x - 12*y | y^2 - 10", "y ^ 2 - 1 0 | x - 1 2 * y"),
    ("groebner", "2*x - 1", "x - 1/2"),
    ("derivative", "3/2*x", "x + x/2"),
    ("derivative", "0", "x - x"),
]
WRONG = [
    ("polynomial_factors", "x + 1 | x + 1", "x + 1"),
    ("polynomial_factors", "x + 1 | x + 2", "x^2 + 3*x + 2"),
    ("polynomial_factors", "x + 1 | x + 2", "2*x + 2 | x + 2"),
    ("gf7_factors", "x + 1", "x + 1 | 7"),
    ("gf7_factors", "x + 1 | x + 1", "x + 1"),
    ("gf7_factors", "x + 1 | x + 1 | x + 2", "x + 1 | x + 2 | x + 2"),
    ("gf7_factors", "x + 4", "x/7 + 4"),
    ("polynomial_gcd", "x + 1", "2*x + 2"),
    ("gf17_sum", "7", "3 + 4"),
    ("gf17_sum", "7 | 8", "8 | 7"),
    ("gf17_sum", "1 | 3", "1 || 3"),
    ("integer_factors", "2 | 2 | 3", "4 | 3"),
    ("integer_factors", "2 | 2 | 3", "2 | 3"),
    ("eigenvalues", "2 | 2 | 3", "2 | 3 | 3"),
    ("parity", "1", "3"),
    ("groebner", "x", "x | 2*x"),
    ("groebner", "x", "x | x"),
    ("parity", "1", "1 | 1"),
    ("groebner", "x | y^2", "x + y^2 | y^2"),
    ("derivative", "12*x", "1 2*x"),
    ("derivative", "3*x", "3*y"),
]


@pytest.mark.parametrize(("name", "reference", "answer", "right"),
                         [(*one, True) for one in RIGHT] + [(*one, False) for one in WRONG])  # fmt: skip
def test_single_answers(name, reference, answer, right):
    assert TASKS[name].check("", reference, answer) is right


HOSTILE = [
    "9 ^ 9 ^ 9", "9 ^ 9 ^ 9 ^ 9", "x + 40 ^ 40 ^ 40", "( x + 1 ) ^ 45 ^ 4", "( x + y + 1 ) ^ 99", "1 / 0", "1 / x",
    "x ^ x", "x ^ - 1", "x ^ ( 1 / 2 )", "( ) [ ]", "", "|", "||", "(" * 5000, "-" * 5000 + "x", "^".join("2" * 5000),
    "*".join(["(x+1)"] * 5000), "+".join(f"1/{n}" for n in range(1, 3000)), "9" * 100_000, "x^" + "9" * 5000, "C1/0 E1",
    "C1 E" + "9" * 5000, "x . y", "lambda: 1", "__import__('os').abort()", "x if x else y", "[x for x in y]",
    "x.diff(x)", "print(1)", "²", "٣", "x\n+\n1", "\x00", "1e5", "0x10", "1_000", "inf", "nan", "x = 1", "x == x",
    "'x'", "x, y", "2x",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_hostile_answers_are_wrong_answers_and_nothing_runs_them(name, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a generated text was run")

    for place, names in ((builtins, ("eval", "exec", "compile")), (sympy, ("sympify", "parse_expr", "S"))):
        for one in names:
            monkeypatch.setattr(place, one, refuse)
    check = TASKS[name].check
    assert [text for text in HOSTILE if check("", "5", text)] == []
    rng = random.Random(0)
    tokens = [*"+-*^/()[]|x0123456789", "||", "y", "45", "**", " "]
    for _ in range(500):
        assert check("", "5", " ".join(rng.choices(tokens, k=rng.randint(1, 20)))) in (True, False)


def test_a_reference_that_is_no_answer_is_told():
    with pytest.raises(NotAPolynomial, match="'C3' follows"):
        TASKS["derivative"].check("", "x C3", "x")


LARGE = {
    "9^9^9": "a coefficient's bits would be above 1,024",
    "x^9^9": "an exponent would be above 10,000",
    "x^9999*x^2": "an exponent would be above 10,000",
    "(x+1)^9999": "it takes more than 10,000 products of terms",
    "(x+1)^99999": "an exponent would be above 10,000",
    "1" * 301: "a number has more than 300 digits",
    "(" * 51 + "x": "brackets or exponents are more than 50 deep",
    "x^(1/2)": "an exponent is no whole number",
    "1/(x-x)": "it divides by 0",
    "1/(x-1)": "it divides by x - 1",
    "x*": "it ends early",
    "(x": "a bracket is not closed",
    "x y": "'y' follows where an operator is expected",
    "x*/2": "'/' stands where a number or variable is expected",
}


@pytest.mark.parametrize("text", LARGE)
def test_what_is_no_polynomial_or_too_large_is_told(text):
    with pytest.raises(NotAPolynomial) as caught:
        read(text)
    assert str(caught.value) == LARGE[text]


def test_polynomials_are_read_as_sympy_reads_them():
    for text in ("-x^2", "2^3^2*x", "x - -3", "x^+2", "- - x", "2^-1*x", "x**2*y", "-2^2", "(x-1)^3*(y+2)", "6/4/3*x",
                 "0^0", "x*3*x", "--(x - y)^2", "2^-3^2", "1.5*x", "x^2^2", "(x)(y)", "3 4"):  # fmt: skip
        try:
            wanted = sympy.sympify(text.replace("^", "**"), locals={"x": x, "y": y}, rational=True)
        except (sympy.SympifyError, TypeError):
            wanted = None
        try:
            found = sympy.sympify(written(read(text)).replace("^", "**"))
        except NotAPolynomial:
            found = None
        assert found == wanted if None in (found, wanted) else sympy.expand(found - wanted) == 0, text
    assert read("C3 E2 E0 + C-1 E0 E1") == read("3*E01^2 - E02")
    assert expressions.terms("x - -3 - x") == [read("x"), read("3"), read("-x")]


@pytest.mark.slow
def test_the_expanded_form_is_sympys_polynomial_or_refused():
    refused = []
    for seed in range(PAIRS):
        rng = random.Random(seed)
        poly = polynomial(rng, True)
        text = Writer(rng, brackets=seed % 10 == 0).polynomial(poly)
        try:
            made = ExpandedForm()((text, "0"))[0]
        except DataError as error:
            refused.append(str(error))
            continue
        pieces = (term.split(" ") for term in made.split(" + "))
        found = {}
        for coefficient, power in pieces:
            key = (int(power[1:]), 0)
            found[key] = found.get(key, 0) + sympy.Rational(coefficient[1:])
        assert {k: v for k, v in found.items() if v} == {k: sympy.Rational(str(v)) for k, v in poly.items()}, text
    assert len(refused) < PAIRS * 0.1
    assert all("is no expanded polynomial in x: the product" in told for told in refused)


def test_preprocessors_keep_what_they_read():
    form = ExpandedForm(("x", "y"))
    assert form(("x - -3", "3*x^2 - -2*y"))[0] == "C1 E1 E0 + C3 E0 E0"
    assert form(("x^+2 | 2*3*x*y || -4/6", "0")) == ("C1 E2 E0 | C6 E1 E1 || C-2/3 E0 E0", "C0 E0 E0")
    for text, told in (("3*x^-1 + 2", "it divides by x"), ("2*(x + 1)", "the product (2*x + 2) is not expanded"),
                       ("x^y", "an exponent is no whole number"), ("", "it ends early"), ("x | ", "it ends early"),
                       ("9^9^9", "bits would be above"), ("z", "'z' is neither a number nor a power")):  # fmt: skip
        with pytest.raises(DataError) as caught:
            form((text, "1"))
        assert told in str(caught.value)
    assert ReversedOrder()(("p", "1 | 2 || 3 | 4 || 5"))[1] == "5 || 3 | 4 || 1 | 2"
    assert LastElement()(("p", "1 | 2 || 3 | 4"))[1] == "3 | 4"
    assert ReversedOrder(";")(("p", "1 ; 2 ;; 3"))[1] == "3 ;; 1 ; 2"


def test_problems_that_are_one_have_one_form():
    assert alike("1 + x|2") == alike("x+1 | 02") == "x + 1 | 2"
    assert alike("1 | 2 || -x") == "1 | 2 || -x"
    assert alike("how many  apples") == "how many apples"
    assert any_order("x + 1 | 2") == any_order("2 | x + 1")
    assert any_order_and_sign("x + 1 | -y") == any_order_and_sign("y | -1 - x")


def test_digits_are_joined_as_the_lexer_wrote_them():
    for group in range(1, 5):
        lexer = read_lexer({"vocab": {"misc": ["x"]}, "number_policy": {"digit_group": group}}, "lexer.yaml")
        for number in (0, 7, 10, 99, 100, 1005, 12345, 100000, 10**12):
            for text in (f"{number}", f"x^2 - {number}*x | -{number + 1} || {number} + {number}"):
                shown = lexer.decode(lexer.encode(text))
                assert lexer.joined(shown).replace(" ", "") == text.replace(" ", "")

    def joined(text, **policy):
        return read_lexer({"number_policy": policy}, "lexer.yaml").joined(text)

    assert joined("1 2 * x", digit_group=0) == "1 2 * x"
    assert joined("12 3 45 6", digit_group=2) == "123 456"  # of a number's tokens, only the last may be short
    assert joined("12 3 45 6", digit_group=2, grouping="right") == "12 345 6"  # or the first
    assert joined("-0 . 56 + 12 . 00 5", digit_group=2) == "-0.56 + 12.005"
    assert joined("3 . 14 | 2 . 5") == "3.14 | 2.5"
