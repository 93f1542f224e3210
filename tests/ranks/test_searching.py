"""Ranks that search train the trials of one process, and none goes on where another one cannot."""

from __future__ import annotations

import json

import pytest

optuna = pytest.importorskip("optuna", reason="optuna is in the extra `hpo`")

from tests.ranks import launch, searching  # noqa: E402

pytestmark = pytest.mark.ranks
CLOSE = 1e-9


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return launch.launched("searching.py", tmp_path_factory.mktemp("searching"))


@pytest.mark.parametrize("kind", searching.EQUAL)
def test_all_ranks_train_the_trials_of_one_process(found, kind, tmp_path):
    first, second = (rank[kind] for rank in found)
    assert "error" not in first, first
    assert first == second
    alone = json.loads(json.dumps(searching.EQUAL[kind](tmp_path)))
    for name, (*said, weights) in alone["seen"].items():
        *told, here = first["seen"].pop(name)
        assert told == said
        assert here == pytest.approx(weights, abs=CLOSE)
    assert not first["seen"]
    for values, here in zip(alone["objectives"], first["objectives"], strict=True):
        assert values is here is None or here == pytest.approx(values, abs=CLOSE)
    assert (first["states"], first["rate"]) == (alone["states"], alone["rate"])
    runs = [best if isinstance(best[0], list) else [best] for best in (first["best"], alone["best"])]
    assert [(run[0], run[2]) for run in runs[0]] == [(run[0], run[2]) for run in runs[1]]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("a search that fails", ["ValueError: no objective here"] * 2),
        (
            "a search that fails on rank 0",
            ["ValueError: no objective here", "RuntimeError: compute_objective failed on rank 0: ValueError("],
        ),
        (
            "a search that fails on rank 1",
            ["RuntimeError: compute_objective failed on rank 1: ValueError(", "ValueError: no objective here"],
        ),
        ("a search in another direction", ["ConfigError: direction='maximize', but the 1 trials"] * 2),
    ],
)
def test_a_search_that_fails_on_one_rank_ends_on_all(found, kind, says):
    for rank, said in zip(found, says, strict=True):
        assert rank[kind]["error"].startswith(said)
