"""Every task against sympy; problems are the same for any number of processes, and never in both splits."""

from __future__ import annotations

import random

import pytest
import sympy

from trainwright import ConfigError, DataError
from trainwright.cli.main import main
from trainwright.tasks.algebra.data import read_rows
from trainwright.tasks.algebra.generate import belongs_to_test, draw, pairs, write_task
from trainwright.tasks.algebra.lexer import NumberPolicy, read_lexer
from trainwright.tasks.algebra.problems import TASKS, task_named

x, y = sympy.symbols("x y")


def parse(text):
    return [sympy.sympify(part.replace("^", "**")) for part in text.split("|")]


def whole(text):
    return [int(part) for part in text.replace("||", "|").split("|")]


REFERENCES = {
    "gf17_sum": lambda p: [sum(whole(p)[: i + 1]) % 17 for i in range(len(whole(p)))],
    "derivative": lambda p: [sympy.diff(parse(p)[0], x)],
    "polynomial_sum": lambda p: [sum(parse(p))],
    "polynomial_product": lambda p: [sympy.expand(parse(p)[0] * parse(p)[1])],
    "polynomial_division": lambda p: list(sympy.div(*parse(p), x)),
    "polynomial_gcd": lambda p: [sympy.gcd(*parse(p))],
    "integer_factors": lambda p: [n for n, k in sorted(sympy.factorint(whole(p)[0]).items()) for _ in range(k)],
    "parity": lambda p: [sum(whole(p)) % 2],
    "eigenvalues": lambda p: sorted(sympy.Matrix(3, 3, whole(p)).eigenvals(multiple=True)),
}


def problems(name, count=40):
    return [TASKS[name].make(random.Random(seed)) for seed in range(count)]


@pytest.mark.parametrize("name", REFERENCES)
def test_answers_are_sympys(name):
    for problem, answer in problems(name):
        expected, found = REFERENCES[name](problem), parse(answer)
        assert len(expected) == len(found)
        assert all(sympy.expand(a - b) == 0 for a, b in zip(expected, found, strict=True)), problem


def test_factors_and_bases_are_sympys():
    for problem, answer in problems("polynomial_factors"):
        assert sympy.expand(sympy.prod(parse(answer)) - parse(problem)[0]) == 0
        assert all(sympy.Poly(factor, x).is_irreducible for factor in parse(answer))
    for problem, answer in problems("groebner", 10):
        basis = sympy.groebner(parse(problem), x, y, order="lex")
        assert set(parse(answer)) == set(basis.exprs)


@pytest.mark.parametrize("name", TASKS)
def test_the_checker_knows_right_from_wrong(name):
    task = TASKS[name]
    for problem, answer in problems(name, 5):
        assert task.check(problem, answer, answer)
        assert not task.check(problem, answer, answer + " | 7")
        assert not task.check(problem, answer, "+ *")


OTHERWISE = {
    "derivative": ("x^2 + x", "2*x + 1", "1+2*x"),
    "polynomial_product": ("x | x + 1", "x^2 + x", "x*(x+1)"),
    "polynomial_factors": ("x^2 - 1", "x - 1 | x + 1", "1+x | -1+x"),
    "integer_factors": ("12", "2 | 2 | 3", "3 | 2 | 2"),
    "eigenvalues": ("", "-1 | 2 | 3", "3 | 2 | -1"),
    "groebner": ("", "x - y | y^2 - 1", "y^2 - 1 | x - y"),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_an_answer_may_be_written_otherwise(name):
    assert TASKS[name].check(*OTHERWISE[name])


@pytest.mark.parametrize("name", TASKS)
def test_the_lexer_of_a_task_knows_its_problems(name):
    lexer = read_lexer(TASKS[name].lexer, name)
    for problem, answer in problems(name, 100):
        for text in (problem, answer):
            assert "".join(lexer.tokenize(text)) == text.replace(" ", "")


def test_problems_are_the_same_for_any_number_of_processes_and_never_shared(tmp_path):
    for number, processes in enumerate((1, 2)):
        write_task("gf17_sum", tmp_path / str(number), 1200, 300, processes=processes)
    for split in ("train", "test"):
        one, other = ((tmp_path / str(number) / f"{split}_raw.txt").read_text() for number in range(2))
        assert one == other
    train, test = (list(read_rows(tmp_path / "0" / f"{split}_raw.txt")) for split in ("train", "test"))
    assert (len(train), len(test)) == (1200, 300)
    assert not {problem for problem, _ in train} & {problem for problem, _ in test}
    assert all(belongs_to_test(problem) for problem, _ in test)


def test_a_generator_that_cannot_is_told():
    with pytest.raises(DataError, match="In 1000 tries the generator made no problem for the test data"):
        draw(lambda seed: ("a", "b"), 0, not belongs_to_test("a"), 0)
        draw(lambda seed: ("a", "b"), 0, True, 0)
    assert len(list(pairs(lambda seed: (str(seed), "1"), 5, 0, False, processes=1))) == 5
    with pytest.raises(ConfigError, match="There is no task 'derivativ'. Did you mean 'derivative'?"):
        task_named("derivativ")


def test_numbers_of_the_lexer():
    def tokens(text, **policy):
        vocab = {"range": {"n": ["", -99, 99]}, "misc": ["x", "1.5", "xy"]}
        return read_lexer({"vocab": vocab, "number_policy": policy, "strict": False}, "lexer.yaml").tokenize(text)

    assert tokens("-3+4-5", attach_sign=True) == ["-3", "+", "4", "-", "5"]
    assert tokens("(-3)*-4", attach_sign=True) == ["(", "-3", ")", "*", "-4"]
    assert tokens("-3", attach_sign=False) == ["-", "3"]
    assert tokens("12345", digit_group=2) == ["1", "23", "45"]
    assert tokens("xy x", attach_sign=True) == ["xy", "x"]
    assert tokens("1.5", allow_float=True) == ["1.5"]
    assert tokens("200") == ["<unk>"]
    with pytest.raises(DataError, match="no whole number; set number_policy.allow_float"):
        tokens("1.5")
    strict = read_lexer({"vocab": {"misc": ["x"]}}, "lexer.yaml")
    with pytest.raises(DataError, match="holds '7', 'q', which the lexer's vocabulary has not"):
        strict.tokenize("x + q * 7")
    assert strict.numbers == NumberPolicy()
    assert strict.decode(strict.encode("x * (x + x)")) == strict.to_token_text("x*(x+x)") == "x * ( x + x )"


BAD = {
    "a key": ({"vocb": {}}, "lexer.yaml: unknown key vocb. Did you mean 'vocab'?"),
    "a range": ({"vocab": {"range": {"n": [1, 2]}}}, "vocab.range.n is [1, 2]; [prefix, least, greatest] is expected"),
    "backwards": ({"vocab": {"range": {"n": ["", 3, 2]}}}, "the least number is greater than the greatest"),
    "a policy": ({"number_policy": {"digits": 2}}, "unknown key number_policy.digits"),
    "a group": ({"number_policy": {"digit_group": -1}}, "number_policy.digit_group is -1"),
}


@pytest.mark.parametrize("name", BAD)
def test_lexers_that_are_none(name):
    content, message = BAD[name]
    with pytest.raises(ConfigError) as caught:
        read_lexer(content, "lexer.yaml")
    assert message in str(caught.value)


def test_the_command(tmp_path, capsys):
    assert main(["algebra", "generate", "parity", str(tmp_path / "p"), "--train", "50", "--test", "9"]) == 0
    assert len((tmp_path / "p" / "test_raw.txt").read_text().splitlines()) == 9
    assert main(["algebra", "eval", str(tmp_path)]) == 2
    assert "holds no eval_results" in capsys.readouterr().err
