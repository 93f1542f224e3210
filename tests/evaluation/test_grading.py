"""How a row that was written is graded: exactly, by CALT's rule, and by a checker."""

from __future__ import annotations

import pytest

from tests import tiny
from trainwright.evaluation.generation import Row, Special, _result

TOKENIZER = tiny.tokenizer()
PLAIN = {"row": 4, "input": "w9 w8"}


def ids(text):
    return TOKENIZER.convert_tokens_to_ids(text.split())


def graded(written, target="w3 w4 </s>", checker=None, argmax="w5 </s>"):
    row = Row(4, ids("<s> w9 w8 <pad>"), ids(target), ids(argmax), None if written is None else ids(written))
    return _result(TOKENIZER, Special.of(TOKENIZER), row, checker)


def answer(generated, correct, reference="w3 w4", length=3, **more):
    return {**PLAIN, "generated": generated, "reference": reference, "correct": correct, "length": length, **more}


WRITTEN = {
    "w3 w4 </s>": answer("w3 w4", True),
    "<s> w3 w4 </s> w5": answer("w3 w4", True, calt_correct=False),  # CALT reads on after the end
    "<s> w3 w4 <pad> </s>": answer("w3 w4", True),
    "w3 w5 </s>": answer("w3 w5", False),
    "w3 w4": answer("w3 w4", False, finished=False, calt_correct=True),  # CALT needs no end
    "w3 <pad> w4 </s>": answer("w3 <pad> w4", False, calt_correct=True),  # and skips what is special
    "w3": answer("w3", False, finished=False),
    "</s>": answer("", False),
}


@pytest.mark.parametrize("written", WRITTEN)
def test_what_was_written_is_right_if_it_is_the_reference_and_has_an_end(written):
    assert graded(written) == WRITTEN[written]


def test_a_row_that_was_not_generated_is_what_teacher_forcing_saw():
    assert graded(None) == answer("w5", False)
    assert graded(None, argmax="w3 w4 </s>") == answer("w3 w4", True)
    assert graded("w3 w4 </s>", argmax="w5 </s>")["correct"]


def test_without_an_end_in_the_reference_none_is_asked_for():
    assert graded("w3 w4", target="w3 w4") == answer("w3 w4", True, length=2)
    assert graded("w3 w4 </s>", target="w3 w4") == answer("w3 w4", True, length=2)


def test_what_no_token_stands_for_is_never_right():
    same = graded("w3 <unk> </s>", target="w3 <unk> </s>")
    assert same == answer("w3 <unk>", False, reference="w3 <unk>", calt_correct=True)


def test_a_checker_is_asked_of_finished_wrong_answers_without_special_tokens_alone():
    asked = []

    def checker(problem, reference, generated):
        asked.append((problem, reference, generated))
        return generated == "w4 w3"

    assert graded("w3 w4 </s>", checker=checker) == answer("w3 w4", True, algebraically_correct=True)
    assert not asked
    assert graded("w4 w3 </s>", checker=checker) == answer("w4 w3", False, algebraically_correct=True)
    assert graded("w5 </s>", checker=checker) == answer("w5", False, algebraically_correct=False)
    assert asked == [("w9 w8", "w3 w4", "w4 w3"), ("w9 w8", "w3 w4", "w5")]
    for written in ("w4 w3", "w4 <pad> w3 </s>", "w4 <unk> </s>"):
        assert graded(written, checker=checker)["algebraically_correct"] is False
    assert len(asked) == 2


def test_a_checker_that_fails_makes_an_answer_wrong_and_its_error_is_kept():
    found = graded("w5 </s>", checker=lambda *_: 1 / 0)
    error = "ZeroDivisionError('division by zero')"
    assert found == answer("w5", False, algebraically_correct=False, checker_error=error)
