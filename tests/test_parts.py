"""The loop of docs/own_loop.md, as it stands there: against `Trainer`, resumed, killed, and on two processes."""

from __future__ import annotations

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
from trainwright import CheckpointError, ConfigError, DataError, SaveError, Trainer, TrainingArguments
from trainwright.parts import Checkpoints, Streams, batches, start_strategy, weighed
from trainwright.world import DataShard

PAGE = Path(__file__).parent.parent / "docs" / "own_loop.md"
STEPS = 30  # of 16 rows, so nearly seven passes over the 70 rows, whose last step has 6
EXACT = 1e-13  # float64, parameters of about 1: only the order of additions differs

# What a process does: `script.py FOLDER ROW NAMES...`. One is killed when it has read so many rows, once.
SCRIPT = """
import json, os, signal, sys
from pathlib import Path

from tests.test_parts import PairsOfNumbers, flat, loop, new_model

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
    state = batches([1] * 9, 4).state_dict()
    with pytest.raises(
        CheckpointError, match=r"not the checkpoint's: rows 9 -> 8; seed 42 -> 1; rows of a step 4 -> 2"
    ):
        batches([1] * 8, 2, seed=1).load_state_dict(state)
