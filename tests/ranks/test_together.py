"""What two ranks train, count, evaluate and decide is what one process does with the same batches."""

from __future__ import annotations

import pytest

from tests.ranks import launch, tiny_rows, together

pytestmark = pytest.mark.ranks
CLOSE = 1e-9


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return launch.launched("together.py", tmp_path_factory.mktemp("together"))


def of(found, case):
    """Return what both ranks found."""
    first, second = (rank[case] for rank in found)
    assert "error" not in first, first
    assert "error" not in second, second
    return first, second


def close(one, other):
    return pytest.approx(one, abs=CLOSE) == other


# ---- a rank without rows


@pytest.mark.parametrize(
    ("case", "kind"),
    [(one, one) for one in ("an unused part", "a part that some steps use", "a counter")]
    + [("an unused part, looked for", "an unused part")],
)
def test_an_idle_rank_changes_nothing(found, case, kind):
    first, second = of(found, case)
    assert first["weights"] == second["weights"]
    assert first["steps"] == second["steps"] == 3
    steps = tiny_rows.steps_of(first["seen"], second["seen"])
    assert steps == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9]]]
    assert close(tiny_rows.by_hand(together.IDLE[kind](), steps, together.ROWS), first["weights"])
    assert (first["heard"], second["heard"]) == (3, 2)  # hooks do not hear of the step that is none


@pytest.mark.parametrize("kind", ["batch norm", "batch norm without means"])
def test_an_idle_rank_has_no_part_in_batch_norm(found, kind):
    first, second = of(found, kind)
    assert first["weights"] == second["weights"]
    assert first["steps"] == 3
    if kind == "batch norm":
        assert [first["buffers"][2], second["buffers"][2]] == [3, 2]  # batches tracked: of its own rows


def test_a_counter_does_not_count_the_step_that_is_none(found):
    first, second = of(found, "a counter")
    assert (first["buffers"], second["buffers"]) == ([3], [2])


@pytest.mark.parametrize("kind", ["an unused part, decayed", "an unused part, decayed, memory watched"])
def test_what_no_step_uses_is_not_decayed(found, kind, tmp_path):
    first, second = of(found, kind)
    alone = together.decayed(tmp_path)
    assert first["weights"] == second["weights"]
    assert close(alone["weights"], first["weights"])
    assert first["weights"][5:] == tiny_rows.weights(together.Unused())[5:]


def test_a_rank_whose_rows_have_no_target(found, tmp_path):
    first, second = of(found, "no targets on one rank")
    assert first["weights"] == second["weights"]
    assert close(together.without_targets(tmp_path, ranks=1)["weights"], first["weights"])


@pytest.mark.parametrize("kind", ["unfrozen later", "unfrozen later, memory watched"])
def test_what_is_unfrozen_later_is_shared(found, kind, tmp_path):
    first, second = of(found, kind)
    alone = together.unfrozen_later(tmp_path)
    assert first == second
    assert close(alone["weights"], first["weights"])
    assert close(alone["norms"], first["norms"])


@pytest.mark.parametrize("kind", ["a loss with a parameter", "a loss with a parameter, resumed"])
def test_parameters_of_a_loss_are_shared_and_go_on(found, kind, tmp_path):
    first, second = of(found, kind)
    alone = together.tempered(tmp_path)
    assert first == second
    assert abs(first["heat"]) > 0.1
    assert close(alone["heat"], first["heat"])
    assert close(alone["weights"], first["weights"])


# ---- counts, buffers, randomness


def test_counts_are_sums_over_the_ranks(found, tmp_path):
    first, second = of(found, "counts")
    assert first == second == together.counts(tmp_path, ranks=1)
    assert first["non_padding"]["tokens"] == 2 * sum(2 + 3 * n for n in range(5))
    assert first["all"]["rows"] == 10


@pytest.mark.parametrize("kind", ["buffers", "buffers of the ranks' own"])
def test_evaluation_uses_the_buffers_of_the_checkpoint(found, kind):
    first, second = of(found, kind)
    for rank in (first, second):
        assert rank["said"] == pytest.approx(rank["right"], rel=1e-6)
        assert rank["after"] == pytest.approx(rank["right"], rel=1e-6)
    assert (first["own"] == second["own"]) == (kind == "buffers")


def test_dropout_is_the_ranks_own_and_comes_again(found):
    first, second = of(found, "dropout")
    for rank in (first, second):
        assert rank["straight"]["masks"] == rank["again"]["masks"]
        assert rank["resumed"]["masks"] == rank["straight"]["masks"][2:]
        assert rank["resumed"]["weights"] == rank["straight"]["weights"]
    assert not [mask for mask in first["straight"]["masks"] if mask in second["straight"]["masks"]]
    assert first["straight"]["drawn"] == second["straight"]["drawn"]  # what the script draws afterwards


def test_a_save_that_one_rank_calls_for_alone_is_a_sentence(found):
    first, second = of(found, "a save of one rank")
    assert first["saved"] == ["checkpoint-1"]  # which it writes behind the other rank's end
    assert first["told"].startswith(
        "_save_checkpoint was called on some ranks alone at step 2 (waited 1 s for the others)"
    )
    assert second["told"] == "The end of the other rank."


def test_a_part_that_one_rank_cannot_go_on_with_ends_all_of_them_with_its_error(found):
    for rank in of(found, "a part that fails on one rank"):
        assert rank["step"] == 4
        assert rank["told"].startswith("The part 'picky' cannot go on with what '")
        assert "failed (ValueError: not mine)" in rank["told"]


def test_a_checkpoint_of_ranks_that_drew_alike_goes_on_and_says_it(found):
    first, second = of(found, "an old checkpoint")
    assert any("all ranks drew the same random numbers" in told for told in first["told"])
    assert first["masks"][0] != second["masks"][0]


# ---- decisions


@pytest.mark.parametrize("kind", ["the best", "early stopping", "a plateau"])
def test_a_metric_decides_alike_on_all_ranks(found, kind, tmp_path):
    first, second = of(found, kind)
    assert first == second
    alone = together.CASES[kind](tmp_path)
    assert close(alone.pop("weights"), first.pop("weights"))
    assert first == alone


def test_a_metric_of_the_first_rank_alone_is_that_of_all(found):
    first, second = of(found, "a metric of one rank")
    assert first["acc"] == second["acc"] == 1.0


def test_a_metric_that_fails_on_one_rank_ends_both(found):
    first, second = (rank["a metric that fails on one rank"]["error"] for rank in found)
    assert "The evaluation failed on rank 1: ValueError('no metric here')" in first
    assert second == "ValueError: no metric here"


@pytest.mark.parametrize("flag", together.FLAGS, ids=lambda flag: " ".join(map(str, flag)))
def test_a_flag_of_one_rank_is_that_of_all(found, flag, tmp_path):
    first, second = of(found, " ".join(map(str, flag)))
    assert first == second
    alone = together.flagged(tmp_path, flag[0], flag[1], 0)
    assert close(alone.pop("weights"), first.pop("weights"))
    assert first == alone


def test_a_callback_that_one_rank_has_alone_stops_both(found):
    first, second = of(found, "a callback of one rank")
    assert first["steps"] == second["steps"] == 3
    assert first["weights"] == second["weights"]


def test_a_tracker_stops_both(found):
    first, second = of(found, "a tracker that asks to stop")
    assert first == second
    assert (first["steps"], first["saved"]) == (3, ["checkpoint-3"])


@pytest.mark.parametrize("flag", together.OVERRIDES, ids=lambda flag: " ".join(map(str, flag)))
def test_a_flag_that_an_override_raises_on_one_rank_is_that_of_all(found, flag, tmp_path):
    first, second = of(found, f"an override: {' '.join(map(str, flag))}")
    assert first == second
    alone = together.overridden(tmp_path, flag[0], flag[1], 0)
    assert close(alone.pop("weights"), first.pop("weights"))
    assert first == alone


@pytest.mark.parametrize("kind", ["a method of the object", "a loss function", "a callback that is added later"])
def test_a_flag_is_that_of_all_whatever_raises_it(found, kind):
    first, second = of(found, kind)
    assert first["steps"] == second["steps"] == 4
    assert first["weights"] == second["weights"]
