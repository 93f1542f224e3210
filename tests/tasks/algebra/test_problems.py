"""Every task against sympy; problems are the same for any number of processes, and never in both splits."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import sympy
import yaml

from trainwright import ConfigError, DataError
from trainwright.cli.main import main
from trainwright.pipelines import IOPipeline
from trainwright.pipelines.file import train_file
from trainwright.tasks.algebra.data import as_text, read_rows
from trainwright.tasks.algebra.generate import belongs_to_test, draw, pairs, write_problems, write_task
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


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
def test_answers_are_sympys(name):
    for problem, answer in problems(name):
        expected, found = REFERENCES[name](problem), parse(answer)
        assert len(expected) == len(found)
        assert all(sympy.expand(a - b) == 0 for a, b in zip(expected, found, strict=True)), problem


def test_longer_derivatives_are_sympys_and_of_the_same_tokens():
    task = TASKS["derivative"]
    lexer = read_lexer(task.lexer, task.name)
    for problem, answer in map(task.longer, map(random.Random, range(40))):
        (given,), (found,) = parse(problem), parse(answer)
        assert sympy.expand(sympy.diff(given, x) - found) == 0
        assert 6 <= sympy.degree(given) <= 8
        assert len(sympy.Poly(given, x).terms()) == sympy.degree(given) + 1
        assert "".join(lexer.tokenize(answer)) == answer.replace(" ", "")


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


class Extremes(random.Random):
    """Draws the ends of what it may draw alone."""

    def randint(self, a, b):
        return self.choice((a, b))

    def randrange(self, start, stop=None):
        return self.choice((0, start - 1) if stop is None else (start, stop - 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_the_lexer_of_a_task_holds_the_largest_numbers(name):
    lexer = read_lexer(TASKS[name].lexer, name)
    for seed in range(20 if name == "groebner" else 1000):
        for text in TASKS[name].make(Extremes(seed)) if name != "eigenvalues" else ("-60 | 60", "-5 | 5"):
            lexer.tokenize(text)


def test_a_matrix_is_not_triangular():
    for problem, answer in problems("eigenvalues", 200):
        matrix = sympy.Matrix(3, 3, whole(problem))
        assert not matrix.is_lower
        assert not matrix.is_upper
        assert max(map(abs, matrix)) <= 60
        assert matrix.trace() == sum(whole(answer))
        assert matrix.det() == sympy.prod(whole(answer))


@pytest.mark.slow
def test_a_copied_problem_is_a_basis_only_if_it_is_the_reduced_one():
    for problem, answer in problems("groebner", 60):
        parts = [one for one in parse(problem) if one != 0]
        basis = sympy.groebner(parse(problem), x, y, order="lex", domain="QQ")
        same = {sympy.Poly(one, x, y, domain="QQ").monic() for one in parts} == {one.monic() for one in basis.polys}
        assert TASKS["groebner"].check(problem, answer, problem) is (same and len(parse(problem)) == len(basis.polys))


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


@pytest.mark.slow
def test_problems_differ_by_seed_and_are_apart_in_any_order(tmp_path):
    for seed in range(2):
        write_task("polynomial_sum", tmp_path / str(seed), 600, 200, seed, processes=1)
    train, other = (list(read_rows(tmp_path / str(seed) / "train_raw.txt")) for seed in range(2))
    assert not set(train) & set(other)
    tests = [pair for seed in range(2) for pair in read_rows(tmp_path / str(seed) / "test_raw.txt")]
    swapped = [" | ".join(problem.split(" | ")[::-1]) for problem, _ in tests]
    form = TASKS["polynomial_sum"].problem_form
    assert all(belongs_to_test(form(problem)) for problem in swapped)
    assert not {form(problem) for problem, _ in [*train, *other]} & set(map(form, swapped))
    ways = ("1 + {0}*x^2", "{0}*x*x+1", "({0})*x^2 - -1")  # of a user's generator, for one problem
    for number in range(200):
        assert len({draw_split(ways[way].format(number)) for way in range(3)}) == 1


def draw_split(problem):
    """Which split a problem is drawn for."""
    for test in (False, True):
        try:
            draw(lambda seed: (problem, "1"), 0, test, 0)
        except DataError:
            continue
        return test
    return None


def own_stream(seed):
    return str(random.random()), "1"


def own_process(seed):
    return f"{seed} | {os.getpid()}", "1"


def counting_up(seed, seen=[0]):  # noqa: B006
    seen[0] += 1
    return f"{seed} | {seen[0]}", "1"


@pytest.mark.parametrize(("make", "processes"), [(own_stream, 1), (own_stream, 2), (counting_up, 1), (own_process, 2)])
def test_a_generator_that_does_not_draw_from_its_seed_alone_is_refused(tmp_path, make, processes):
    with pytest.raises(DataError, match=r"For one seed the generator made .* It may draw from its seed alone"):
        write_problems(make, tmp_path / "made", {"train": 1200, "test": 10}, processes=processes)
    assert not (tmp_path / "made").exists()


def test_problems_that_were_interrupted_are_made_anew(tmp_path, monkeypatch):
    def interrupted(seed):
        if seed % 40 == 0:
            raise KeyboardInterrupt
        return str(seed), "1"

    with pytest.raises(KeyboardInterrupt):
        write_problems(interrupted, tmp_path / "made", {"train": 500, "test": 10}, processes=1)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()  # an empty folder holds no problems either
    names = {"lexer_config": "lexer.yaml", "train_dataset_path": "train_raw.txt", "test_dataset_path": "none.txt"}
    section = {"task": "parity", "save_dir": "made", "num_train_samples": 30, "num_test_samples": 5}
    sections = {
        "dataset": section,
        "data": {key: f"made/{name}" for key, name in names.items()},
        "model": {},
        "train": {},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(sections))
    with pytest.raises(DataError, match=r"There is no data file '.*made/none.txt'"):
        train_file(tmp_path / "run.yaml")
    assert len((tmp_path / "made" / "train_raw.txt").read_text().splitlines()) == 30


def test_what_files_cannot_hold_is_refused():
    assert as_text([[1, 2], [3]]) == "1 | 2 || 3"
    with pytest.raises(DataError, match="has lists three deep"):
        as_text([[[1], 2], [3]])
    for text in ("a # b", "a\nb"):
        with pytest.raises(DataError, match="holds '#' or a line break"):
            as_text(text)


def test_the_checker_has_to_be_able_to_read_the_test_data(tmp_path):
    section = {"lexer_config": {"vocab": {"range": {"n": ["", 0, 9], "C": ["C", -9, 9], "E": ["E", 0, 9]},
                                          "misc": ["x"]}, "number_policy": {"attach_sign": False}},
               "train_dataset_path": str(tmp_path / "a.txt"), "test_dataset_path": str(tmp_path / "a.txt"),
               "task": "derivative"}  # fmt: skip
    (tmp_path / "a.txt").write_text("x^2 # 2*x\nx # 1\n")
    plain = IOPipeline.from_config(section).build()["train_dataset"].description["checker"]
    assert plain("", "2 * x + 1", "1 + x * 2")
    expanded = {**section, "dataset_load_preprocessor": "expanded_form"}
    checker = IOPipeline.from_config(expanded).build()["train_dataset"].description["checker"]
    assert checker("", "C3 E2 + C-1 E0", "C-1 E0 + C3 E2")
    assert not checker("", "C3 E2 + C-1 E0", "C3 E2 + C1 E0")
    (tmp_path / "a.txt").write_text("x^2 # 2*x\nx # 1 x\n")
    with pytest.raises(DataError) as caught:
        IOPipeline.from_config(section).build()
    assert str(caught.value).startswith("Row 1 of the test data: its answer '1 x' cannot be read by the checker of "
                                        "cfg.data.task 'derivative' ('x' follows")  # fmt: skip


def test_a_generator_that_cannot_is_told():
    of_test = next(text for text in map(str, range(1000)) if belongs_to_test(text))
    of_training = next(text for text in map(str, range(1000)) if not belongs_to_test(text))
    with pytest.raises(DataError, match="In 1000 tries the generator made no problem for the test data"):
        draw(lambda seed: (of_training, "b"), 0, True, 0)
    with pytest.raises(DataError, match="In 1000 tries the generator made no problem for the training data"):
        draw(lambda seed: (of_test, "b"), 0, False, 0)
    assert draw(lambda seed: (of_test, "b"), 0, True, 0) == (of_test, "b")
    assert len(list(pairs(lambda seed: (str(seed), "1"), 5, 0, False, processes=1))) == 5
    with pytest.raises(ConfigError, match="There is no task 'derivativ'. Did you mean 'derivative'?"):
        task_named("derivativ")


def test_numbers_of_the_lexer():
    def tokens(text, **policy):
        vocab = {"range": {"n": ["", -99, 99]}, "misc": ["x", "1.5", "xy"]}
        return read_lexer({"vocab": vocab, "number_policy": policy, "strict": False}, "lexer.yaml").tokenize(text)

    assert tokens("-3+4-500 - 5", attach_sign=True) == ["-3", "+", "4", "-", "<unk>", "-", "5"]
    assert tokens("4-5", attach_sign=True) == ["4", "-5"]  # a token of the vocabulary
    assert tokens("(-3)*-4", attach_sign=True) == ["(", "-3", ")", "*", "-4"]
    assert tokens("-3 - 300", attach_sign=False) == ["-3", "-", "<unk>"]  # -3 is a token of the vocabulary
    assert tokens("12345", digit_group=2) == ["12", "34", "5"]
    assert tokens("12345", digit_group=2, grouping="right") == ["1", "23", "45"]
    assert tokens("xy x", attach_sign=True) == ["xy", "x"]
    assert tokens("1.5 + 0.05", allow_float=True) == ["1", ".", "5", "+", "0", ".", "<unk>"]
    assert tokens("1.5", grouping="right") == ["1.5"]
    assert tokens("200") == ["<unk>"]
    with pytest.raises(DataError, match="no whole one; set number_policy.allow_float"):
        read_lexer({"vocab": {"range": {"n": ["", 0, 9]}}, "number_policy": {"allow_float": False}}, "l").tokenize(
            "1.5"
        )
    strict = read_lexer({"vocab": {"misc": ["x"]}}, "lexer.yaml")
    with pytest.raises(DataError, match="holds '7', 'q', which the lexer's vocabulary has not"):
        strict.tokenize("x + q * 7")
    assert strict.numbers == NumberPolicy()
    assert strict.decode(strict.encode("x * (x + x)")) == strict.to_token_text("x*(x+x)") == "x * ( x + x )"


def test_special_tokens_are_where_transformers_looks_for_them():
    lexer = read_lexer({"vocab": {"misc": ["x"]}}, "lexer.yaml")
    made = lexer.tokenizer()
    names = {"pad": "[PAD]", "bos": "<s>", "eos": "</s>", "cls": "[CLS]", "unk": "<unk>", "sep": "[SEP]"}
    assert {name: getattr(made, f"{name}_token") for name in names} == names
    ids = [lexer.vocabulary.index(one) for one in ("<s>", "x", "<unk>", "</s>")]
    assert made("x y")["input_ids"] == ids
    assert made.decode(ids, skip_special_tokens=True) == "x"


def test_names_end_where_they_end():
    vocab = {"range": {"n": ["", 0, 9], "C": ["C", -12, 12]}, "misc": ["x", "y"]}
    strict, loose = (read_lexer({"vocab": vocab, "strict": strict}, "lexer.yaml") for strict in (True, False))
    assert strict.tokenize("C12 x*y xy 2x C-1") == ["C12", "x", "*", "y", "x", "y", "2", "x", "C-1"]
    for text in ("C123", "x10", "y1 + x", "C-13", "xy2"):
        with pytest.raises(DataError, match="which the lexer's vocabulary has not"):
            strict.tokenize(text)
    assert loose.tokenize("C123 + x10") == ["<unk>", "+", "<unk>"]


def test_every_number_can_be_read_in_every_group_of_digits():
    for group in range(1, 5):
        policy = {"digit_group": group, "attach_sign": False}
        lexer = read_lexer({"vocab": {"range": {"n": ["", 0, 9]}}, "number_policy": policy}, "lexer.yaml")
        assert "".join(lexer.tokenize("1005 + 12 - 1000000 | 7")) == "1005+12-1000000|7"
    assert read_lexer({"number_policy": {"digit_group": 3}}, "lexer.yaml").tokenize("-1005") == ["-100", "5"]


def test_numbers_whose_digits_run_together_are_refused_with_their_rows(tmp_path):
    lexer = {"vocab": {"misc": ["x"]}, "number_policy": {"digit_group": 1, "attach_sign": False}}
    section = {"lexer_config": lexer, "train_dataset_path": str(tmp_path / "a.txt"),
               "test_dataset_path": str(tmp_path / "a.txt")}  # fmt: skip
    (tmp_path / "a.txt").write_text("1 | 2 # 3\n12 3 # 4\n1 23 # 4\n123 # 4\nx # q\n")
    with pytest.raises(DataError) as caught:
        IOPipeline.from_config(section).build()
    assert str(caught.value) == (
        "Row 1 of the training data: '12 3' has 12 and 3 with nothing between them, which are the same tokens as 123 "
        "with number_policy.digit_group 1. Write an operator or | between them. 2 more rows cannot be read: 2, 4."
    )
    two = read_lexer({"number_policy": {"digit_group": 2, "attach_sign": False}}, "lexer.yaml")
    assert two.tokenize("1 23") == ["1", "23"]  # the tokens of no other text
    with pytest.raises(DataError, match="12 and 3 with nothing between them"):
        two.tokenize("12 3")


def test_tokens_are_calts():
    """Tokens that calt-x 1.5.0 was seen to make; null where it makes one that its vocabulary has not, or raises."""
    refused = []
    for one in json.loads((Path(__file__).parent / "lexers.json").read_text(encoding="utf-8")):
        lexer = read_lexer(one["lexer"], one["name"])
        for text, wanted in one["tokens"].items():
            try:
                assert lexer.to_token_text(text) == wanted, (one["name"], text)
            except DataError:
                refused += [text] if wanted else []
    assert set(refused) == {"x1^2 + 3*x2 - x0"}  # CALT reads x1 as x and 1 where there is x alone


BAD = {
    "a key": ({"vocb": {}}, "lexer.yaml: unknown key vocb. Did you mean 'vocab'?"),
    "a range": ({"vocab": {"range": {"n": [1, 2]}}}, "vocab.range.n is [1, 2]; [prefix, least, greatest] is expected"),
    "backwards": ({"vocab": {"range": {"n": ["", 3, 2]}}}, "the least number is greater than the greatest"),
    "a policy": ({"number_policy": {"digits": 2}}, "unknown key number_policy.digits"),
    "a group": ({"number_policy": {"digit_group": -1}}, "number_policy.digit_group is -1"),
    "a grouping": ({"number_policy": {"grouping": "middle"}}, "grouping is 'middle'; left or right is expected"),
    "a large group": ({"number_policy": {"digit_group": 5}}, "is 5; a number of digits up to 4, or 0, is expected"),
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
    assert main(["algebra", "eval", "nowhere"]) == 2
    assert "There is no folder 'nowhere'" in capsys.readouterr().err


def test_a_generator_that_makes_no_pair_is_told():
    from trainwright.tasks.algebra.generate import draw

    with pytest.raises(DataError, match=r"The generator made '5' of a seed; a pair \(problem, answer\) is expected"):
        draw(lambda seed: 5, 0, False, 0)


def test_files_of_problems_in_other_alphabets(tmp_path):
    from trainwright.tasks.algebra.data import read_sources

    (tmp_path / "mark.txt").write_bytes(b"\xef\xbb\xbf1 # 2\n")
    assert list(read_sources(tmp_path / "mark.txt", -1)) == ["1 # 2"]
    (tmp_path / "other.txt").write_bytes("1 # é\n".encode("latin-1"))
    with pytest.raises(DataError, match="is no UTF-8 .* Save it as UTF-8"):
        list(read_sources(tmp_path / "other.txt", -1))
