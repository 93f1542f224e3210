"""The loop of docs/own_loop.md, as it stands there: against `Trainer`, resumed, killed, and on two processes."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests import forked
from trainwright import CheckpointError, ConfigError, DataError, Loss, Objective, SaveError, Trainer, TrainingArguments
from trainwright.parts import (
    Checkpoints,
    Steps,
    Streams,
    batches,
    choose_precision,
    forward_backward,
    start_strategy,
    weighed,
)
from trainwright.world import DataShard

PAGE = Path(__file__).parent.parent / "docs" / "own_loop.md"
CPU = torch.device("cpu")
STEPS = 30  # of 16 rows, so nearly seven passes over the 70 rows, whose last step has 6
EXACT = 1e-13  # float64, parameters of about 1: only the order of additions differs

# What a process does: `script.py FOLDER ROW NAMES...`. One is killed when it has read so many rows, once.
SCRIPT = """
import json, os, signal, sys
from pathlib import Path

from tests.test_parts import PairsOfNumbers, flat, loop, new_model
from trainwright.parts import start_strategy

place, row = Path(sys.argv[1]), int(sys.argv[2])
rank = os.environ.get("RANK", "0")


class Deadly(PairsOfNumbers):
    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        if self.reads == row and rank == os.environ.get("DEADLY", "0") and not (place / "dead").exists():
            (place / "dead").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


for name in sys.argv[3:]:
    model = new_model(0.0 if name == "exact" else 0.1)
    rows = Deadly() if name == "killed" else PairsOfNumbers()
    losses = loop()["fit"](model, rows, place / name, 30, save_steps=3)
    found = {"losses": losses, "parameters": flat(model).tolist()}
    (place / f"{name}{rank}.json").write_text(json.dumps(found))
strategy = start_strategy()
several = [p for _ in range(2) for p in strategy.prepare(new_model()).parameters()]
strategy.agree = None  # each model's own wrapper exchanges its gradients, so nothing is left to talk about
strategy.finish_gradients(several)
"""


class PairsOfNumbers(torch.utils.data.Dataset):
    """Rows that draw: what is added to `x` depends on seed, pass and batch."""

    def __len__(self):
        return 70

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        x, y = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (4, 1))
        return {"x": x + 0.1 * torch.randn(4, dtype=torch.float64), "y": y}


def loop():
    names = {}
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.M | re.S)[0]
    exec(compile(code, PAGE.name, "exec"), names)
    return names


def new_model(dropout=0.1):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1)).double()


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def run(folder, steps=STEPS, dropout=0.1, **options):
    model = new_model(dropout)
    losses = loop()["fit"](model, PairsOfNumbers(), folder, steps, **options)
    return losses, flat(model)


def test_it_is_short():
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.M | re.S)[0]
    assert len(code.splitlines()) <= 60


def test_it_is_what_a_trainer_does(tmp_path):
    losses, parameters = run(tmp_path / "own")
    model = new_model()
    args = TrainingArguments(
        str(tmp_path / "trainer"), max_steps=STEPS, per_device_train_batch_size=4, gradient_accumulation_steps=4,
        seed=42, max_grad_norm=1.0, logging_steps=1, remove_unused_columns=False, use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    trainer = Trainer(
        model,
        args,
        train_dataset=PairsOfNumbers(),
        objective=loop()["SquaredError"](),
        optimizers=(optimizer, schedule),
    )
    trainer.train()
    assert torch.equal(parameters, flat(model))
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx(losses, rel=1e-6)  # logged as float32


def test_it_goes_on_bitwise_from_any_checkpoint(tmp_path):
    losses, straight = run(tmp_path / "straight")
    for step in (3, 5, 14):  # within a pass, at the end of one, within one
        run(tmp_path / "run", save_steps=step)
        shutil.rmtree(tmp_path / "run" / "checkpoint-30")
        left = sorted(int(path.name.partition("-")[2]) for path in (tmp_path / "run").glob("checkpoint-*"))
        assert len(left) == 1  # keep=2
        again, resumed = run(tmp_path / "run")
        assert again == losses[left[0] :]
        assert torch.equal(resumed, straight)
        shutil.rmtree(tmp_path / "run")


class StreamOfPairs(torch.utils.data.IterableDataset):
    def __iter__(self):
        rows = PairsOfNumbers()
        return (rows[index] for index in range(len(rows)))


GROUPS = "AdamW([{'params': [p for p in parameters if p.ndim == d], 'lr': d / 100} for d in (1, 2)])"
EVALUATED = """losses.append(float(strategy.sum_tensor(loss)))
            with torch.no_grad():
                losses.append(float(model.eval()(torch.ones(1, 4).double())))
            model.train()"""
VARIATIONS = {  # the lines of the page's loop that another one has in their stead
    "two groups": {"AdamW(parameters, lr=1e-2)": GROUPS},
    "a schedule by the loss": {
        "LinearLR(optimizer, 1.0, 0.0, 30)": "ReduceLROnPlateau(optimizer, patience=1)",
        "schedule.step()": "schedule.step(float(loss))",
    },
    "compiled": {"strategy.prepare(model)\n": "torch.compile(strategy.prepare(model), backend='eager')\n"},
    "evaluated": {"losses.append(float(strategy.sum_tensor(loss)))": EVALUATED},
    "averaged": {
        '"data": data}': '"data": data, "average": (average := torch.optim.swa_utils.AveragedModel(model))}',
        "optimizer.zero_grad()": "optimizer.zero_grad() or average.update_parameters(model)",
        "return losses": "return [*losses, *(float(p.sum()) for p in average.parameters())]",
    },
    "a stream": {"batches(rows": "batches(StreamOfPairs()"},
}


@pytest.mark.parametrize("changed", VARIATIONS.values(), ids=VARIATIONS)
def test_variations_of_it_go_on_bitwise(tmp_path, changed):
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.M | re.S)[0]
    for before, after in {"0.0, steps)": "0.0, 30)", **changed}.items():
        assert before in code
        code = code.replace(before, after)
    names = {"StreamOfPairs": StreamOfPairs}
    exec(compile(code, PAGE.name, "exec"), names)
    found = []
    for folder, counts in (("straight", [12]), ("stopped", [7, 12])):
        for count in counts:
            losses = names["fit"](model := new_model(), PairsOfNumbers(), tmp_path / folder, count)
        found.append((losses[-5:], flat(model).tolist()))
    assert found[0] == found[1]


class Adversary(Objective):
    """One of two that learn against each other; `other` is not trained by it."""

    def __init__(self, other, sign):
        self.other, self.sign = other, sign

    def count(self, batch):
        return len(batch["x"])

    def loss(self, model, batch, num_items):
        return Loss(self.sign * (self.other(batch["x"]) * model(batch["x"])).sum() / num_items)


def two_that_learn(place, steps):
    strategy = start_strategy()
    models = nn.ModuleList([new_model(), new_model()])
    optimizers = [torch.optim.Adam(model.parameters(), lr=1e-2) for model in models]
    data, precision = batches(PairsOfNumbers(), 16, micro_batch_size=8), choose_precision(strategy.device)
    parts = {"first": optimizers[0], "second": optimizers[1], "data": data}
    with Checkpoints(place, strategy, models, parts, of_ranks={"streams": Streams()}) as checkpoints:
        for step, micro_batches in zip(range(checkpoints.restore() + 1, steps + 1), data):
            for own, other, sign in ((0, 1, 1), (1, 0, -1)):
                forward_backward(models[own], micro_batches, Adversary(models[other], sign), strategy, precision)
                optimizers[own].step()
                models.zero_grad()
            if step % 5 == 0 or step == steps:
                checkpoints.save(step)
    return flat(models)


def test_two_models_that_learn_against_each_other_go_on_bitwise(tmp_path):
    torch.manual_seed(0)
    straight = two_that_learn(tmp_path / "straight", 12)
    torch.manual_seed(0)
    two_that_learn(tmp_path / "stopped", 7)
    assert torch.equal(two_that_learn(tmp_path / "stopped", 12), straight)


def by_closure(place, steps):
    strategy, model = start_strategy(), new_model(0.0)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4, history_size=3, line_search_fn="strong_wolfe")
    data, precision = batches(PairsOfNumbers(), 16, micro_batch_size=8), choose_precision(strategy.device)
    seen = []
    with Checkpoints(place, strategy, model, {"optimizer": optimizer, "data": data}) as checkpoints:
        for step, micro_batches in zip(range(checkpoints.restore() + 1, steps + 1), data):

            def closure(micro_batches=micro_batches):
                optimizer.zero_grad()
                objective = loop()["SquaredError"]()
                return strategy.sum_tensor(forward_backward(model, micro_batches, objective, strategy, precision))

            optimizer.step(closure)
            seen.append(weighed(micro_batches, lambda batch: len(batch["x"])))
            if step == steps:
                checkpoints.save(step)
    return seen, flat(model)


def test_an_optimizer_that_computes_the_loss_itself_is_torchs_and_goes_on_bitwise(tmp_path):
    seen, straight = by_closure(tmp_path / "straight", 6)
    by_closure(tmp_path / "stopped", 3)
    assert torch.equal(by_closure(tmp_path / "stopped", 6)[1], straight)
    model = new_model(0.0)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4, history_size=3, line_search_fn="strong_wolfe")
    for step in seen:
        x, y = (torch.cat([batch[name] for batch, items in step if items]) for name in "xy")

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
    assert (flat(model) - straight).abs().max() < 1e-10  # line searches magnify what additions round


class Penalised(Objective):
    """With the gradient of the model by its input, as in WGAN-GP."""

    def count(self, batch):
        return len(batch["x"])

    def loss(self, model, batch, num_items):
        x = batch["x"].clone().requires_grad_()
        given = model(x)
        (slope,) = torch.autograd.grad(given.sum(), x, create_graph=True)
        return Loss(((given - batch["y"]) ** 2).sum() / num_items + ((slope.norm(dim=1) - 1) ** 2).sum() / num_items)


def in_the_backward_pass(place, steps):
    """Each parameter has an optimizer of its own, which steps as soon as its gradient is there."""
    strategy, model = start_strategy(), new_model(0.0)
    optimizers = {p: torch.optim.SGD([p], lr=1e-2, momentum=0.9) for p in model.parameters()}
    for parameter in optimizers:
        parameter.register_post_accumulate_grad_hook(lambda p: optimizers[p].step() or optimizers[p].zero_grad())
    data, precision = batches(PairsOfNumbers(), 16), choose_precision(strategy.device)
    parts = {"data": data, **{str(number): one for number, one in enumerate(optimizers.values())}}
    seen = []
    with Checkpoints(place, strategy, model, parts) as checkpoints:
        for step, micro_batches in zip(range(checkpoints.restore() + 1, steps + 1), data):
            forward_backward(model, micro_batches, Penalised(), strategy, precision)
            seen += micro_batches
            if step == steps:
                checkpoints.save(step)
    return seen, flat(model)


def test_updates_in_the_backward_pass_are_those_by_hand_and_go_on_bitwise(tmp_path):
    seen, straight = in_the_backward_pass(tmp_path / "straight", 9)
    in_the_backward_pass(tmp_path / "stopped", 4)
    assert torch.equal(in_the_backward_pass(tmp_path / "stopped", 9)[1], straight)
    model = new_model(0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    for batch in seen:
        x = batch["x"].requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        (nn.functional.mse_loss(model(x), batch["y"]) + ((slope.norm(dim=1) - 1) ** 2).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (flat(model) - straight).abs().max() < EXACT


def copied(model):
    return torch.optim.Adam(copy.deepcopy(model).parameters())


def from_meta(model):
    """The optimizer is made before the model has weights."""
    optimizer = torch.optim.Adam(model.to("meta").parameters())
    model.to_empty(device="cpu")
    return optimizer


@pytest.mark.parametrize(("make", "lost", "held"), [
    (copied, 4, 4), (from_meta, 4, 4),
    (lambda model: torch.optim.Adam([*model.parameters(), nn.Parameter(torch.ones(()))]), 1, 5),
])  # fmt: skip
def test_an_optimizer_whose_parameters_no_checkpoint_would_hold_is_refused(tmp_path, make, lost, held):
    model = new_model()
    with pytest.raises(ConfigError, match=f"'optimizer' trains {lost} of {held} parameters that are neither"):
        Checkpoints(tmp_path, start_strategy(), model, {"optimizer": make(model)})


def test_an_optimizer_may_train_what_another_part_keeps(tmp_path):
    class Scale:
        def __init__(self):
            self.value = nn.Parameter(torch.ones(()))

        def state_dict(self):
            return {"value": self.value.detach()}

        def load_state_dict(self, state):
            self.value.data.copy_(state["value"])

    model, critic, scale = new_model(), nn.Linear(2, 1), Scale()
    optimizer = torch.optim.Adam([*model.parameters(), *critic.parameters(), scale.value])
    Checkpoints(tmp_path, start_strategy(), model, {"optimizer": optimizer, "critic": critic, "scale": scale})
    with pytest.raises(ConfigError, match="trains 7 of 7"):
        Checkpoints(tmp_path, start_strategy(), nn.Linear(1, 1), {"optimizer": optimizer, "critic": nn.Linear(2, 1)})
    with pytest.raises(ConfigError, match="restore and save within `with checkpoints:`"):
        Checkpoints(tmp_path, start_strategy(), model, {}).restore()


class Cut(Objective):
    count = Penalised.count

    def loss(self, model, batch, num_items):
        return Loss(model(batch["x"]).detach().sum())


class Each(Objective):
    count = Penalised.count

    def loss(self, model, batch, num_items):
        return Loss(model(batch["x"]))


def test_a_step_that_cannot_train_is_refused_before_the_first_update():
    strategy, precision, step = start_strategy(), choose_precision(CPU), [{"x": torch.ones(2, 4).double()}]
    for model, given, objective, error, said in (
        (new_model().requires_grad_(False), step, Each(), DataError, r"Each.loss returned a value of shape \(2, 1\)"),
        (new_model().requires_grad_(False), step, Cut(), ConfigError, "since none of the model's parameters requires"),
        (
            new_model(),
            step,
            Cut(),
            ConfigError,
            "The loss of Cut trains nothing, since it was computed under",
        ),
        (new_model(), step[0], Cut(), ConfigError, "The micro-batches are a dict; a list of at least one batch"),
        (new_model(), [], Cut(), ConfigError, "The micro-batches are an empty list"),
        (new_model(), step, Cut, ConfigError, "The objective is the class Cut; an instance of a subclass"),
        (new_model(), step, len, ConfigError, "The objective is a builtin_function_or_method; an instance"),
    ):
        with pytest.raises(error, match=said):
            forward_backward(model, given, objective, strategy, precision)
    model = new_model()
    with pytest.raises(ConfigError, match=r"LBFGS computes the loss itself, several times a step: call its own ste"):
        precision.step(torch.optim.LBFGS(model.parameters()), False)


def test_what_is_tried_before_the_run_leaves_no_trace(tmp_path):
    """Such as a search for the learning rate: the parts are given back what they were."""
    strategy, found = start_strategy(), []
    for tries in (0, 9):
        torch.manual_seed(0)
        model, data, streams = new_model(), batches(PairsOfNumbers(), 16), Streams()
        optimizer = torch.optim.Adam(model.parameters())
        before = [copy.deepcopy(part.state_dict()) for part in (model, optimizer, data, streams)]
        for steps in (tries, 5):
            for part, state in zip((model, optimizer, data, streams), before, strict=True):
                part.load_state_dict(copy.deepcopy(state))
            for _, micro_batches in zip(range(steps), data):
                forward_backward(
                    model, micro_batches, loop()["SquaredError"](), strategy, choose_precision(strategy.device)
                )
                optimizer.step()
                optimizer.zero_grad()
        found.append(flat(model).tolist())
    assert found[0] == found[1]


@pytest.mark.slow
def test_it_survives_a_kill(tmp_path):
    _, straight = run(tmp_path / "straight")
    row = int(torch.randint(60, 400, (), generator=torch.Generator().manual_seed(7)))
    words = script(tmp_path, row, "killed")
    assert forked.run(words, environment={"DEADLY": "0"}).returncode == -9
    left = [path.name for path in (tmp_path / "killed").glob("checkpoint-*")]
    assert left
    assert forked.run(words, environment={"DEADLY": "0"}).returncode == 0
    resumed = json.loads((tmp_path / "killed0.json").read_text())
    assert 0 < len(resumed["losses"]) < STEPS
    assert resumed["parameters"] == straight.tolist()


@pytest.mark.ranks
def test_two_processes_are_one_and_survive_the_kill_of_one(tmp_path):
    row = int(torch.randint(40, 200, (), generator=torch.Generator().manual_seed(8)))
    torchrun = [sys.executable, *"-m torch.distributed.run --standalone --nproc-per-node=2".split()]
    killed = forked.ranks(script(tmp_path, row, "killed"), environment={"DEADLY": "1"})
    assert -9 in killed.codes
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DEADLY": "0", "PYTHONPATH": str(PAGE.parent.parent)}
    words = [*torchrun, *map(str, script(tmp_path, row, *NAMES))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "dead").exists()
    found = {name: [json.loads((tmp_path / f"{name}{rank}.json").read_text()) for rank in range(2)] for name in NAMES}
    for first, second in found.values():
        assert first == second
    assert found["killed"][0]["parameters"] == found["straight"][0]["parameters"]
    assert 0 < len(found["killed"][0]["losses"]) < STEPS == len(found["straight"][0]["losses"])
    losses, parameters = run(tmp_path / "one", dropout=0.0)
    assert found["exact"][0]["losses"] == pytest.approx(losses, abs=EXACT)
    both = torch.tensor(found["exact"][0]["parameters"], dtype=torch.float64)
    assert (both - parameters).abs().max() < EXACT


NAMES = ("straight", "exact", "killed")


def script(place, row, *names):
    """Return the words that run the page's loop, with the models of these names."""
    (place / "script.py").write_text(SCRIPT)
    return [place / "script.py", place, row, *names]


def kept(place, steps, parts=None, model=None, **options):
    """Save steps of a model whose weight is its step."""
    model = nn.Linear(1, 1) if model is None else model
    with Checkpoints(place, start_strategy(), model, parts or {}, **options) as checkpoints:
        for step in steps:
            nn.init.constant_(model.weight, step)
            checkpoints.save(step)


def restored(place, parts=None, **options):
    model = nn.Linear(1, 1)
    with Checkpoints(place, start_strategy(), model, parts or {}, **options) as checkpoints:
        return checkpoints.restore(), float(model.weight.detach())


def test_a_damaged_checkpoint_is_passed_over_and_set_aside(tmp_path, caplog):
    kept(tmp_path, (1, 2, 3))
    (tmp_path / "checkpoint-3" / "parts.pt").write_bytes(b"")
    assert restored(tmp_path) == (2, 2.0)
    assert "Passed over checkpoint-3: parts.pt has 0 bytes" in caplog.text
    with Checkpoints(tmp_path, start_strategy(), nn.Linear(1, 1), {}) as checkpoints:
        checkpoints.save(checkpoints.restore() + 2)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [f"checkpoint-{step}" for step in (1, 2, 4)]
    assert [path.name for path in tmp_path.glob("previous-*/*")] == ["checkpoint-3"]
    for path in tmp_path.glob("checkpoint-*"):
        (path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="all are damaged"):
        restored(tmp_path)


def test_what_is_kept_of_each_part(tmp_path, caplog):
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    kept(tmp_path, [1], {"critic": first}, of_ranks={"streams": Streams()})
    drawn = torch.rand(3)
    assert restored(tmp_path, {"critic": second}, of_ranks={"streams": Streams()})[0] == 1
    assert torch.equal(torch.rand(3), drawn)
    assert torch.equal(first.weight, second.weight)
    restored(tmp_path, {"other": nn.Linear(3, 3)})
    assert "keeps nothing of the part 'other'; it begins anew" in caplog.text
    with pytest.raises(CheckpointError, match=r"The part 'critic' cannot go on with what .*checkpoint-1"):
        restored(tmp_path, {"critic": nn.Linear(3, 3)})
    with pytest.raises(ConfigError, match=r"of_ranks\['streams'\] is a int; a part that checkpoints keep needs"):
        restored(tmp_path, of_ranks={"streams": 3})


def test_a_folder_is_of_one_loop_and_a_failed_save_is_told(tmp_path):
    with Checkpoints(tmp_path, start_strategy(), nn.Linear(1, 1), {}), pytest.raises(ConfigError, match="is in use by"):
        kept(tmp_path, [1])
    wrong = nn.Linear(1, 1)
    nn.init.constant_(wrong.bias, float("nan"))
    with pytest.raises(SaveError, match=r"checkpoint-1 was not written: the parameters are not finite in bias"):
        kept(tmp_path, [1], model=wrong)
    assert list(tmp_path.iterdir()) == []
    kept(tmp_path, [1])  # the folder is free again


def test_rows_that_are_not_finite_change_nothing(tmp_path):
    class OneBad(PairsOfNumbers):
        def __getitem__(self, index):
            row = super().__getitem__(index)
            return {**row, "y": row["y"] * float("nan")} if index == 5 else row

    model = new_model(0.0)
    losses = loop()["fit"](model, OneBad(), tmp_path, STEPS)
    assert 5 <= sum(loss != loss for loss in losses) <= 7  # once in each of six or seven passes
    assert torch.isfinite(flat(model)).all()


def test_the_rows_of_a_step_are_the_same_for_any_number_of_processes():
    rows = list(range(21))
    alone = [[row for batch in step for row in batch] for step, _ in zip(batches(rows, 8, collate=list), range(6))]
    shards = [batches(rows, 8, micro_batch_size=2, shard=DataShard(i, 2), collate=list) for i in range(2)]
    for step, *each in zip(alone, *shards, strict=False):
        counted = [pair for one in each for pair in weighed(one, len)]
        assert sorted(row for batch, items in counted if items for row in batch) == sorted(step)
    assert sorted(row for step in alone[:3] for row in step) == rows


def test_data_that_does_not_divide_or_is_another_is_refused():
    with pytest.raises(ConfigError, match=r"global_batch_size=9 is no multiple of micro_batch_size=4 times the 2 pro"):
        batches([1] * 9, 9, shard=DataShard(0, 2))
    with pytest.raises(DataError, match="is empty"):
        batches([], 4)
    with pytest.raises(ConfigError, match=r"batches\(\) takes no shuffle=: "):
        batches([1] * 8, 4, shuffle=False)
    with pytest.raises(ConfigError, match="Steps takes a loader of the engine's, and this is a DataLoader; batches"):
        Steps(torch.utils.data.DataLoader([1] * 8))
    for rows, kind in (([1] * 8, "int"), ([torch.ones(2)] * 8, "Tensor"), (["a"] * 8, "str")):
        with pytest.raises(DataError, match=f"A row is a {kind}, and has no fields by name. Give rows as dicts"):
            next(iter(batches(rows, 4)))
    with pytest.raises(DataError, match="no batch in pass 2: it is empty, or is used up after one pass"):
        list(zip(range(3), batches(iter([1] * 8), 4, collate=list), strict=False))
    state = batches([1] * 9, 4).state_dict()
    with pytest.raises(
        CheckpointError, match=r"not the checkpoint's: rows 9 -> 8; seed 42 -> 1; rows of a step 4 -> 2"
    ):
        batches([1] * 8, 2, seed=1).load_state_dict(state)


def test_a_stream_is_divided_among_processes_and_found_again(caplog):
    alone = [[row for batch in step for row in batch] for _, step in zip(range(6), batches(Drawn(), 8, collate=list))]
    shards = [batches(Drawn(), 8, micro_batch_size=2, shard=DataShard(i, 2), collate=list) for i in range(2)]
    for step, *each in zip(alone, *shards, strict=False):
        counted = [pair for one in each for pair in weighed(one, len)]
        assert sorted(int(row) for batch, items in counted if items for row in batch) == sorted(map(int, step))
    first = batches(Drawn(), 8, collate=list)
    for _ in zip(range(4), first):
        pass
    second = batches(Drawn(), 8, collate=list)
    second.load_state_dict(first.state_dict())
    assert [step[0] for _, step in zip(range(2), second)] == alone[4:]
    assert "8 rows of the stream are read again to find the place" in caplog.text
    with pytest.raises(CheckpointError, match="rows of a batch 8 -> 4; batches of a step 1 -> 2"):
        batches(Drawn(), 8, micro_batch_size=4).load_state_dict(first.state_dict())


class Drawn(torch.utils.data.IterableDataset):
    def __iter__(self):
        return (number + float(torch.rand(())) for number in range(21))


def test_a_wrapped_model_is_kept_as_it_is_without_and_other_objects_are_told(tmp_path, caplog):
    kept(tmp_path, [1], model=torch.compile(nn.Linear(1, 1), backend="eager"))
    assert restored(tmp_path) == (1, 1.0)
    with pytest.raises(ConfigError, match=r"checkpoint-1' is a checkpoint itself; give the folder that holds it, '"):
        restored(tmp_path / "checkpoint-1")
    choose_precision(CPU, fp16=True)
    assert "fp16=True needs a GPU; a CPU computes in float32" in caplog.text
    wrong = type("Own", (Objective,), {"count": lambda self, batch: 1, "loss": lambda *given: torch.ones(())})()
    with pytest.raises(DataError, match=r"Own\.loss returned Tensor; it must return trainwright\.Loss\(value"):
        forward_backward(new_model(), [{"x": torch.ones(1, 4)}], wrong, start_strategy(), choose_precision(CPU))
