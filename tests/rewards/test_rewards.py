"""Rewards of the user's: whatever they do costs a row at most, and is told by name."""

from __future__ import annotations

import math

import pytest
import torch

from tests.reinforcement import tiny_prompts
from trainwright.errors import ConfigError
from trainwright.generation.rollouts import Completion
from trainwright.objectives.policy import advantages
from trainwright.reinforcement.judging import judged, told
from trainwright.rewards.functions import call, of_names, shadowed
from trainwright.rewards.pool import Pool

COLUMNS = {
    "prompts": ["p"] * 4, "completions": ["aab", "be", "c", "d"], "completion_ids": [[1], [2], [3], [4]],
    "answer": ["1", "2", "none", "4"],
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rewards")
    (folder / "rewards.py").write_text(tiny_prompts.REWARDS + MORE)
    return folder


MORE = """
def short(completions):
    return [1.0]


def words(completions):
    return ["many" if one == "c" else 2 for one in completions]


def longest(completions, prompts):  # of those of its prompt
    most = {p: max(len(c) for c, q in zip(completions, prompts) if p == q) for p in prompts}
    return [float(len(c) == most[p]) for c, p in zip(completions, prompts)]


def longest_or_fails(completions, prompts):
    if "b" in "".join(completions):
        raise ValueError("a b")
    return longest(completions, prompts)


def arrays(completions):
    import numpy
    return numpy.array([1, 2, 3, 4])


def far(completions):
    return [float("inf"), -1e300, float("nan"), 1]


def exits(completion):
    if completion == "c":
        import sys
        sys.exit("enough")
    return 1.0


come = []


async def meets(completion):  # ends when all four rows are judged at the same time
    come.append(completion)
    while len(come) < 4:
        await asyncio.sleep(0)
    return len(completion)


def leaves(completion):
    if completion == "c":
        os._exit(3)
    return 1.0


def prints(completion):
    print("to nobody")
    return 1.0
"""


def rewards(place, *names, **settings):
    return of_names([f"{place / 'rewards.py'}:{name}" for name in names], settings)


@pytest.mark.parametrize("processes", [0, 1, 3])
def test_values_of_several_functions_by_row(place, processes):
    pool = Pool(rewards(place, "letters", "longest", "longest_or_fails", "lucky"), processes, 20.0)
    columns = {**COLUMNS, "prompts": ["p", "p", "q", "q"], "completions": ["a", "ab", "ccc", "d"]}
    (letters, longest, picky, lucky), failures = pool.judge(columns, group=2)
    pool.close()
    assert letters == [0.1, 0.1, None, 0.0]
    assert longest == [0.0, 1.0, 1.0, 0.0]  # however many processes there are, a prompt's are seen together
    assert picky == [None, None, 1.0, 0.0]  # and where it fails for another prompt
    assert [(one.reward, one.row, one.reason) for one in failures] == [
        ("longest_or_fails", row, "ValueError: a b") for row in (0, 1)
    ]
    assert all(0 <= value <= 1 for value in lucky)


@pytest.mark.parametrize("processes", [0, 1])
@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("fails", [1.0, None, 1.0, 1.0], "ValueError: an e"),
        ("words", [2.0, 2.0, None, 2.0], "it returned 'many', which is no number"),
        ("exits", [1.0, 1.0, None, 1.0], "SystemExit: enough"),
    ],
)
def test_a_function_that_raises_costs_its_row(place, processes, name, values, reason):
    pool = Pool(rewards(place, name), processes, 20.0)
    (found,), failures = pool.judge(COLUMNS)
    pool.close()
    assert found == values
    (failure,) = failures
    assert (failure.reward, failure.row) == (name, values.index(None))
    assert reason in failure.reason
    (sentence,) = told(failures, [70 + failure.row // 2])
    assert f"The reward '{name}' failed for a completion of row {70 + values.index(None) // 2}" in sentence


def test_coroutines_of_rows_are_awaited_at_the_same_time(place):
    (found,), failures = Pool(rewards(place, "meets"), 1, 5.0).judge(COLUMNS)
    assert found == [3.0, 2.0, 1.0, 1.0]
    assert failures == []


@pytest.mark.parametrize("what", ["undefined", "1 / 0", "raise KeyError('boom')"])
def test_a_file_of_rewards_that_raises_is_told_in_a_sentence(tmp_path, what):
    (tmp_path / "mine.py").write_text(f"def f(completion):\n    return 1\n\n\n{what}\n")
    with pytest.raises(ConfigError, match=r"mine.py:f' cannot be imported: \w+Error: "):
        of_names([f"{tmp_path / 'mine.py'}:f"], {})


def test_a_list_of_another_length_is_no_reward_of_any_row_and_told_with_both(place):
    (found,), failures = Pool(rewards(place, "short"), 0, 1.0).judge(COLUMNS)
    assert found == [None] * 4  # one by one it would seem right
    (sentence,) = told(failures, [7, 7, 8, 8])
    assert sentence == (
        "The reward 'short' failed for 4 completions, the first of row 7, and is left out there: it returned a list of "
        "1 for 4 completions."
    )


@pytest.mark.slow
def test_a_function_that_hangs_costs_its_row_and_its_process(place):
    pool = Pool(rewards(place, "hangs", "letters"), 1, 1.5)
    (found, letters), (failure,) = pool.judge(COLUMNS)
    pool.close()
    assert found == [1.0, None, 1.0, 1.0]
    assert letters == [0.2, 0.0, None, 0.0]  # the next function has a process again
    assert failure.reason == "no answer within 1.5 seconds (reward_timeout)"


@pytest.mark.slow
def test_a_function_that_ends_its_process_costs_its_row(place):
    pool = Pool(rewards(place, "leaves", "prints"), 1, 20.0)
    (found, printed), (failure,) = pool.judge(COLUMNS)
    pool.close()
    assert found == [1.0, 1.0, None, 1.0]
    assert failure.reason == "its process ended with 3"
    assert printed == [1.0] * 4


def test_a_function_sees_what_it_takes_alone(place):
    one = Completion(torch.tensor([5, 6]), torch.zeros(2), True)
    own = {"answer": "1", "texts": "its own", "completions": "never seen"}
    rows = [{"prompt": [{"role": "user", "content": "x"}], **own}]
    pool = Pool(of_names(["tests.rewards.test_rewards:sees"], {}), 0, 1.0)
    found, failures = judged(pool, rows, [[one, one]], lambda ids: "written")
    assert failures == []
    assert found.tolist() == [[1.0], [1.0]]


def sees(completions, prompts, completion_ids, answer, texts):
    """TRL's: lists, a conversation's completion as messages."""
    wanted = [[{"role": "assistant", "content": "written"}]] * 2
    right = (
        completions == wanted and completion_ids == [[5, 6]] * 2 and answer == ["1"] * 2 and texts == ["its own"] * 2
    )
    return [float(right and prompts[0][0]["role"] == "user")] * 2


def test_rewards_that_there_are_not_count_in_nothing():
    given = torch.tensor([[1.0, 2.0], [math.nan, 4.0], [math.nan, math.nan], [0.0, 1.0]], dtype=torch.float64)
    totals = advantages.weighted(given, [1.0, 0.5])
    assert totals[[0, 1, 3]].tolist() == [2.0, 2.0, 0.5]
    assert totals[2].isnan()
    known = totals[[0, 1, 3]]
    wanted = (known - known.mean()) / (known.std() + 1e-4)
    found = advantages.of_groups(totals, 4, "group")
    torch.testing.assert_close(found[[0, 1, 3]], wanted)
    assert found[2] == 0
    assert advantages.of_the_others(totals, 4).tolist() == [2 - 1.25, 2 - 1.25, 0.0, 0.5 - 2.0]


def test_a_completion_that_alone_has_a_reward_has_no_advantage():
    totals = torch.tensor([1.0, math.nan, 3.0, 5.0], dtype=torch.float64)
    assert advantages.of_groups(totals, 2, "group")[:2].tolist() == [0.0, 0.0]
    assert advantages.of_the_others(totals, 2)[:2].tolist() == [0.0, 0.0]
    assert advantages.of_groups(totals, 2, "none").tolist() == [0.0, 0.0, -1.0, 1.0]
    whole = totals[[0, 2, 3]].std()
    torch.testing.assert_close(advantages.of_groups(totals, 2, "batch")[3], 1 / (whole + 1e-4))


def test_rewards_of_oumis_names_have_its_numbers():
    texts = ["a b c d e", r"it is \boxed{3}", r"\boxed{1} or \boxed{2}", ""]
    columns = {"prompts": [""] * 4, "completions": texts, "completion_ids": [[1]] * 4, "letter_count": [0, 4, 1, 1]}
    names = ["soft_5tokens_completions", "sharp_10tokens_completions", "count_letters"]
    soft, sharp, counted = (call(one, columns).values for one in of_names(names, {}))
    assert soft == pytest.approx([1.0, 0.6 * math.exp(0.4), 0.6 * math.exp(0.4), 0.0])
    assert sharp == [-5.0, -7.0, -7.0, -10.0]
    assert counted == pytest.approx([-3.0, 1 / 1.5 - 2, -3.0, -3.0])


def test_an_array_is_a_list_and_what_cannot_be_compared_costs_its_row(place):
    """One infinite reward would make the advantages of its whole group infinite."""
    pool = Pool(rewards(place, "arrays", "far"), 0, 20.0)
    (arrays, far), failures = pool.judge(COLUMNS)
    assert arrays == [1.0, 2.0, 3.0, 4.0]
    assert far == [None, None, None, 1.0]
    assert [one.reason.partition(",")[0] for one in failures] == [
        "it returned inf", "it returned -1e+300", "it returned nan; None says that there is no reward",
    ]  # fmt: skip
    (note,) = shadowed(pool.rewards, ["prompt", "answer", "completions", "completion"])
    assert note.startswith("The column 'completions' of the data is not given to rewards")
