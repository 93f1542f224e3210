"""Two ranks train and evaluate every row once, whoever divides them, and give what one process gives."""

from __future__ import annotations

import pytest
import torch

from tests.ranks import launch, loaders, tiny_rows

pytestmark = pytest.mark.ranks
CLOSE = 1e-9


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return launch.launched("loaders.py", tmp_path_factory.mktemp("loaders"))


@pytest.mark.parametrize("kind", [*loaders.SETS, *loaders.LOADERS])
def test_every_row_is_trained_once_as_by_one_process(found, kind):
    first, second = (rank[kind] for rank in found)
    assert "error" not in first, first
    every = list(range(loaders.ROWS))
    passes = tiny_rows.passes_of(first["seen"], second["seen"])
    assert [sorted(set(numbers)) for numbers in passes] == [every, every]
    trained = sum(map(len, passes))
    assert trained == 2 * (loaders.ROWS + (kind in loaders.REPEATS))
    assert first["rows"] == second["rows"] == trained
    assert first["weights"] == second["weights"]
    steps = tiny_rows.steps_of(first["seen"], second["seen"])
    assert len(steps) == 6
    right = tiny_rows.by_hand(tiny_rows.Net(), steps, loaders.ROWS)
    assert first["weights"] == pytest.approx(right, abs=CLOSE)
    assert first["epoch"] == second["epoch"] == 2


@pytest.mark.parametrize("kind", [*loaders.SETS, *loaders.LOADERS])
def test_every_row_is_evaluated_once_as_by_one_process(found, kind):
    first, second = (rank[kind] for rank in found)
    assert "error" not in first, first
    model = tiny_rows.Net()
    torch.nn.utils.vector_to_parameters(torch.tensor(first["weights"], dtype=torch.float64), model.parameters())
    data = tiny_rows.stacked(loaders.ROWS)
    assert first["metrics"] == second["metrics"]
    assert first["metrics"]["eval_rows"] == loaders.ROWS
    assert first["metrics"]["eval_loss"] == pytest.approx(model(**data)["loss"].item(), rel=1e-6)
    if first["live"]:
        assert first["live"] == second["live"]
        assert first["live"]["eval_rows"] == loaders.ROWS
        assert first["live"]["eval_sum"] == pytest.approx(data["labels"].sum().item(), abs=CLOSE)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("a stream of the rank by the environment", "The Secret gives every rank other rows"),
        ("an evaluation of such a stream", "The Secret gives every rank other rows"),
        ("a list in another order on each rank", "neither one whole nor its parts"),
        ("a class with noise of the rank's own", "other values in noise of the training data, a Noisy"),
        ("a class of a file with noise of the rank's own", "other values in noise of the training data, a Noisy"),
        ("parts that overlap", "neither one whole nor its parts"),
        ("more parts than ranks", "The DistributedSampler divides the data into 4 parts, but there are 2 ranks"),
        ("a table split into more parts", "divides the training data into 4 parts, but there are 2 ranks"),
        ("the same part on both ranks", "gives rank 0 and rank 1 the same part of the data (number 0 of 2)"),
        ("a stream split alike on both ranks", "gives rank 0 and rank 1 the same part of the training data"),
        ("an evaluation of the same part on both ranks", "gives rank 0 and rank 1 the same part of the data"),
        ("a part that is divided again", "divided twice, so rows would be left out: by the DistributedSampler"),
        (
            "a DistributedSampler that accelerate divides again",
            "by the BatchSamplerShard, and by the DistributedSampler",
        ),
    ],
)
def test_what_can_be_neither_divided_nor_left_is_refused(found, kind, says):
    for rank in found:
        assert rank[kind]["error"].startswith("DataError: ")
        assert says in rank[kind]["error"]
