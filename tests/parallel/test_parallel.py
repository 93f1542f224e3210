"""A strategy is an instance that joins its processes when the Trainer is made; what cannot work is refused there."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.ranks import strategies, tiny_rows
from trainwright import ConfigError, Strategy, Trainer, TrainerCallback, processes
from trainwright.errors import RankError
from trainwright.parallel.choice import start_strategy
from trainwright.parallel.ddp import DataParallel, exact_norms
from trainwright.parallel.sharded import Sharded
from trainwright.parallel.strategy import ProcessOptions
from trainwright.world import World


@pytest.mark.parametrize(("given", "told"), [(DataParallel, "is the class DataParallel"), ("ddp", "is a str")])
def test_what_is_no_strategy_is_refused(tmp_path, given, told):
    with pytest.raises(ConfigError, match=rf"strategy= {told}.*an instance of a subclass of trainwright\.Strategy"):
        tiny_rows.trained(tmp_path, train_dataset=tiny_rows.rows(4), strategy=given)


def test_a_strategy_of_one_process_is_refused_where_there_are_several():
    class Own(Strategy):
        pass

    with pytest.raises(ConfigError, match="Own runs one process, and torchrun has started 2"):
        Own().setup(World(size=2), torch.device("cpu"), ProcessOptions())


def test_several_processes_may_be_one_without_torchrun(tmp_path):
    class Counting(DataParallel):
        def __init__(self):
            self.exchanges = 0

        def finish_gradients(self, parameters):
            self.exchanges += 1
            super().finish_gradients(parameters)

    plain = strategies.run(tmp_path / "plain")
    strategy = Counting()
    try:
        alone = strategies.run(tmp_path / "alone", strategy)
    finally:
        processes.leave()
    assert alone == plain
    assert strategy.exchanges == plain["steps"] > 5


def test_norms_are_those_of_torch_and_clipping_scales_to_the_limit():
    """Against `clip_grad_norm_` in float64; a parameter without gradient has norm 0."""
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.zeros(size, dtype=torch.float64)) for size in (3, 5, 2)]
    for parameter in parameters[::2]:
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    twins = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    for twin, parameter in zip(twins, parameters, strict=True):
        twin.grad = None if parameter.grad is None else parameter.grad.clone()
    each = [0.0 if p.grad is None else float(p.grad.norm()) for p in parameters]
    wanted = torch.nn.utils.clip_grad_norm_(twins, 0.25)
    total, norms = Strategy().clip_gradients(parameters, 0.25)
    assert torch.equal(total, wanted)
    assert norms.tolist() == pytest.approx(each, rel=1e-15)
    assert all(torch.equal(p.grad, t.grad) for p, t in zip(parameters, twins, strict=True) if p.grad is not None)
    assert float(Strategy().clip_gradients(parameters, 0)[0]) == pytest.approx(0.25, rel=1e-5)


def test_float32_gradients_are_clipped_to_the_bits_of_torch():
    """On a CPU the factor is computed without tensors; two thousand norms around the limit, from 1e-8 to 1e8."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    for limit in (1.0, 0.1, 3.7, 1e-9):
        for power in torch.linspace(-8, 8, 500).tolist():
            ours.grad = torch.randn(2, generator=generator) * limit * 10**power
            theirs.grad = ours.grad.clone()
            torch.nn.utils.clip_grad_norm_([theirs], limit)
            Strategy().clip_gradients([ours], limit)
            assert torch.equal(ours.grad, theirs.grad), (limit, power)


@pytest.mark.parametrize("spoilt", [0.0, float("nan"), float("inf")])
def test_gradients_within_the_limit_are_written_only_where_something_is_not_finite(spoilt):
    """A factor of 1 changes nothing; what is not finite reaches the others, as with torch's own."""
    first, second = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([spoilt])
    twins = [torch.nn.Parameter(p.detach().clone()) for p in (first, second)]
    for twin, parameter in zip(twins, (first, second), strict=True):
        twin.grad = parameter.grad.clone()
    before = first.grad._version
    torch.nn.utils.clip_grad_norm_(twins, 1.0)
    Strategy().clip_gradients([first, second], 1.0)
    for twin, parameter in zip(twins, (first, second), strict=True):
        torch.testing.assert_close(parameter.grad, twin.grad, rtol=0, atol=0, equal_nan=True)
    assert (first.grad._version > before) is (spoilt != 0)


class Copies(Strategy):
    def place(self, model):
        return copy.deepcopy(model)


class Forgets(Strategy):
    def prepare(self, model, recomputes=False):
        """The `return` is missing."""


@pytest.mark.parametrize(
    ("strategy", "told"),
    [(Copies, "Copies.place returned another module"), (Forgets, r"Forgets.prepare returned nothing \(None\)")],
)
def test_a_strategy_that_trains_another_model_is_told(tmp_path, strategy, told):
    with pytest.raises(ConfigError, match=told):
        tiny_rows.trained(tmp_path, train_dataset=tiny_rows.rows(4), strategy=strategy())


class Alone(Strategy):
    def setup(self, world, device, options):
        self.device = device


def test_a_process_that_would_take_itself_for_the_only_one_is_told():
    with pytest.raises(ConfigError, match=r"Alone\.setup has not set self\.world.* number 1 of 2"):
        start_strategy(Alone(), World(rank=1, size=2), torch.device("cpu"))


class Recomputes(tiny_rows.Net):
    """Computes a layer again in its backward pass, by torch's reentrant form."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(tiny_rows.WIDTH, tiny_rows.WIDTH).double()

    def predict(self, x, number):
        return checkpoint(self.layer, self.first(x), use_reentrant=True).squeeze(-1)


class UsesPartsOfLayers(tiny_rows.Net):
    """Uses the weight of a layer without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(tiny_rows.WIDTH, tiny_rows.WIDTH).double() for _ in range(2)])

    def predict(self, x, number):
        return super().predict(x @ self.layers[0].weight + self.layers[1](x), number)


@pytest.mark.parametrize(
    ("model", "strategy", "told"),
    [
        (Recomputes, DataParallel, "reentrant checkpoint.*set ddp_find_unused_parameters=False.*ready only once"),
        (UsesPartsOfLayers, Sharded, "without calling that layer.*'auto_wrap_policy': 'NO_WRAP'.*got mixed"),
    ],
)
def test_an_error_of_torchs_that_comes_of_how_a_run_is_spread_says_what_to_do(tmp_path, model, strategy, told):
    try:
        with pytest.raises(ConfigError, match=told):
            tiny_rows.trained(tmp_path, model(), train_dataset=tiny_rows.rows(4), strategy=strategy())
    finally:
        processes.leave()


@pytest.mark.parametrize("call", ["train", "evaluate", "predict"])
def test_a_call_names_the_processes_without_which_it_cannot_go_on(tmp_path, monkeypatch, call):
    """Before the first step, too; after it the run names them with what is saved."""

    def closed(**batch):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:43938")

    rows = tiny_rows.rows(4)
    trainer = Trainer(tiny_rows.Net(), tiny_rows.arguments(tmp_path), train_dataset=rows, eval_dataset=rows)
    trainer.model.forward = closed
    told = "none has failed or is gone .*Connection closed.* has called the model, evaluate or a save alone"
    for lost, expected in (("Rank 1 (process 7 on here) has left", r"Rank 1 \(process 7"), (None, told)):
        monkeypatch.setattr(trainer.strategy, "lost", lambda lost=lost: lost)
        with pytest.raises(RankError, match=f"{expected}.*, so {call} cannot go on here"):
            getattr(trainer, call)(*[rows] * (call == "predict"))


class Masks(TrainerCallback):
    """Has a user's hook change a gradient."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        model.layer.weight.register_hook(torch.zeros_like)


def test_a_hook_that_a_sharded_model_gets_when_training_begins_is_refused(tmp_path):
    try:
        with pytest.raises(
            ConfigError, match=r"'layer\.weight' has a hook on its gradient \(register_hook\), and torch"
        ):
            tiny_rows.trained(tmp_path, train_dataset=tiny_rows.rows(4), strategy=Sharded(), callbacks=[Masks()])
    finally:
        processes.leave()


def test_the_norm_of_complex_numbers_is_that_of_both_parts():
    found = exact_norms([torch.tensor([3 + 4j, 0]), torch.tensor([1 - 1j], dtype=torch.complex128)], 2.0)
    assert found.tolist() == pytest.approx([5, 2**0.5], abs=1e-12)


def test_numbers_whose_squares_overflow_are_finite():
    large = [torch.full((3,), 1e30), torch.ones(2), torch.tensor([1e200], dtype=torch.float64), torch.empty(0)]
    strategy = start_strategy(None, World(size=1), torch.device("cpu"), ProcessOptions())
    assert strategy.finite(large).tolist() == [True] * 4
    wrong = [torch.tensor([1.0, value]) for value in (torch.inf, -torch.inf, torch.nan)]
    assert strategy.finite([*large, *wrong]).tolist() == [True] * 4 + [False] * 3
    assert strategy.finite([torch.ones(2, dtype=torch.bfloat16), *wrong]).tolist() == [True] + [False] * 3
