"""A model measured by what it writes: judged row by row, by verifiers and by functions of one's own."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests import tiny_language as tiny
from trainwright import DataError
from trainwright.cli.main import main
from trainwright.generation.sampling import Sampling
from trainwright.rewards.functions import of_names
from trainwright.trained.asking.writer import writer
from trainwright.trained.folders import find
from trainwright.trained.measuring import rows
from trainwright.trained.measuring.answers import by_answers, reference_of
from trainwright.trained.measuring.comparing import Scores, compared

pytestmark = pytest.mark.slow
GREEDY = Sampling(max_new_tokens=6, temperature=0.0)


@pytest.fixture(scope="module")
def writing(whole):
    return writer(find(whole), GREEDY)


@pytest.fixture(scope="module")
def asked(writing, place):
    """Rows of which every other one has what the model writes as its answer."""
    prompts = [row["prompt"] for row in tiny.rows_of("completion", 6, seed=5)]
    written = [writing.text(one.ids) for [one] in writing.complete(prompts, [(n,) for n in range(6)])]
    answers = [text if number % 2 else f"{text}no" for number, text in enumerate(written)]
    made = [{"prompt": prompt, "answer": answer} for prompt, answer in zip(prompts, answers, strict=True)]
    return tiny.write_rows(place / "asked.jsonl", made)


def test_answers_are_judged_row_by_row_and_kept(whole, writing, asked, tmp_path):
    data = rows.read(find(whole), str(asked))
    file = tmp_path / "answers.jsonl"
    found = by_answers(find(whole), writing, data, of_names(["exact_match"], {}), file)
    assert [row["exact_match"] for row in found.rows] == [0, 1, 0, 1, 0, 1]
    assert found.metrics == {"exact_match": 0.5}
    kept = file.read_text()
    assert len(kept.splitlines()) == 6
    by_answers(find(whole), writing, data, of_names(["numeric"], {}), file)  # which asks nothing again
    assert file.read_text() == kept


def test_several_answers_to_a_row_are_its_mean(whole, place, asked, tmp_path):
    (place / "judge.py").write_text("def longer(completion, prompt):\n    return float(len(completion) > 6)\n")
    drawing = writer(find(whole), Sampling(max_new_tokens=6))
    data = rows.read(find(whole), str(asked))
    own = of_names([f"{place / 'judge.py'}:longer"], {})
    found = by_answers(find(whole), drawing, data, own, tmp_path / "answers.jsonl", count=3)
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    for row in found.rows:
        lengths = [len(line["generated"]) for line in lines if line["row"] == row["row"]]
        assert row["longer"] == pytest.approx(sum(length > 6 for length in lengths) / 3)


def test_the_reference_of_a_row():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert reference_of({"prompt": "a", "completion": "b"}) == "b"
    assert reference_of({"messages": turns}) == "b"
    assert reference_of({"prompt": turns[:1], "completion": turns[1:]}) == "b"
    assert reference_of({"conversations": [{"from": "gpt", "value": "b"}]}) == "b"
    assert reference_of({"text": "a"}) is None


def test_what_a_verifier_lacks_is_told(whole, writing, asked, tmp_path):
    data = rows.read(find(whole), str(asked))
    with pytest.raises(DataError, match="'algebra' cannot judge the rows of 'asked.jsonl': .* 'task'"):
        by_answers(find(whole), writing, data, of_names(["algebra"], {}), tmp_path / "answers.jsonl")


JUDGES = """
def some(completion, prompt, answer):
    return None if answer.endswith("no") else 1


def none(completion):
    return None


def words(completion):
    return "good"
"""


def test_answers_without_a_judgement_count_in_no_mean(whole, place, writing, asked, tmp_path):
    (place / "own.py").write_text(JUDGES)
    data, file = rows.read(find(whole), str(asked)), tmp_path / "answers.jsonl"
    found = by_answers(find(whole), writing, data, of_names([f"{place / 'own.py'}:some"], {}), file)
    assert found.metrics == {"some": 1.0}
    assert [row["some"] for row in found.rows] == [None, 1.0] * 3
    against = compared(found.scores[0], Scores("some", np.array([0.0, 0, 0, 1, 1, 1]), np.ones(6)))
    assert (against.wins, against.losses, against.ties) == (1, 0, 2)
    for name, told in (("none", "'none' judges no answer"), ("words", "it returned .good., which is no number")):
        with pytest.raises(DataError, match=told):
            by_answers(find(whole), writing, data, of_names([f"{place / 'own.py'}:{name}"], {}), file)


def test_the_command_judges_answers_and_compares(whole, lora, asked, capsys):
    words = ["eval", str(whole), str(lora), "--data", str(asked), "--max-new-tokens", "6"]
    assert main([*words, "--verify", "exact_match,numeric", "--with", "numeric.tolerance=0.5"]) == 0
    out = capsys.readouterr().out
    assert "exact_match   A     0.5" in out
    assert "0/3/3" in out  # the other model has what this one wrote in no row
    assert (whole / "evaluations" / "asked.jsonl.answers.jsonl").exists()
    assert main([*words, "--verify", "exact_mtch"]) == 2
    assert "Did you mean 'exact_match'?" in capsys.readouterr().err
    assert main([*words, "--verify", "numeric", "--with", "tolerance=1"]) == 2
    assert "NAME.KEY=VALUE is expected" in capsys.readouterr().err
