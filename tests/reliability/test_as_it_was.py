"""A checkpoint holds the step that it names, a step that is skipped changes nothing, and what looks at a model in
passing leaves it, the generators and the terminal as they were."""

from __future__ import annotations

import random
import threading
import time

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

import trainwright
from tests import tiny
from tests.reliability import cases
from tests.reliability.test_failures import Poisoned
from trainwright import CheckpointError, Strategy, Trainer, TrainerCallback, randomness
from trainwright.checkpoint import check, folder, writer
from trainwright.checkpoint.model import weights
from trainwright.errors import SaveError
from trainwright.session.buffers import Buffers
from trainwright.session.ema import Ema


def made(place, model=None, kind=Trainer, callbacks=(), library=trainwright, data=None, **changes):
    torch.manual_seed(0)
    settings = {"per_device_train_batch_size": 4, "max_steps": 6, "learning_rate": 1e-2, "logging_steps": 1,
                "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "report_to": "none"}  # fmt: skip
    kind = kind if library is trainwright else library.Trainer
    args = library.TrainingArguments(str(place), **{**settings, **changes})
    data = cases.rows() if data is None else data
    few = [data[number] for number in range(4)]
    return kind(model or cases.Net(), args, train_dataset=data, eval_dataset=few, callbacks=list(callbacks))


# ---- saves


class SaveItself(TrainerCallback):
    """Saves at some steps by itself, in the hook it is told."""

    def __init__(self, steps, hook="on_step_end"):
        self.steps, self.truth = steps, {}
        setattr(self, hook, self.save)

    def save(self, args, state, control, model=None, **kwargs):
        self.truth[state.global_step] = {name: p.detach().clone() for name, p in model.named_parameters()}
        if state.global_step in self.steps:
            self.trainer._save_checkpoint(model, None)


@pytest.mark.parametrize("hook", ["on_step_end", "on_step_begin"])
def test_saves_that_a_callback_asks_for_in_turn_hold_their_own_steps(tmp_path, monkeypatch, hook):
    real = writer.write_tensors
    monkeypatch.setattr(writer, "write_tensors", lambda *given, **named: (time.sleep(0.2), real(*given, **named))[1])
    saves = SaveItself((2, 3, 4), hook)
    saves.trainer = made(tmp_path, callbacks=[saves])
    saves.trainer.train()
    for step in saves.steps:
        place = tmp_path / f"checkpoint-{step}"
        assert check.damage(place) is None
        held = load_file(place / "model.safetensors")
        assert all(torch.equal(held[name], p) for name, p in saves.truth[step].items())


@pytest.mark.parametrize("hook", ["on_substep_end", "on_pre_optimizer_step", "on_optimizer_step"])
def test_no_checkpoint_is_written_of_the_middle_of_a_step(tmp_path, hook):
    saves = SaveItself((2,), hook)
    saves.trainer = made(tmp_path, callbacks=[saves], gradient_accumulation_steps=2)
    with pytest.raises(CheckpointError, match="in the middle of step 3, where the state is of no step"):
        saves.trainer.train()


class Counting(TrainerCallback):
    """Counts evaluations, and keeps the number in a checkpoint."""

    def __init__(self):
        self.count = 0

    def on_evaluate(self, args, state, control, **kwargs):
        self.count += 1

    def state(self):
        return {"args": {}, "attributes": {"count": self.count}}


@pytest.mark.parametrize("hook", ["on_step_end", "on_log", "on_evaluate", "on_prediction_step"])
def test_what_is_due_at_a_step_that_a_callback_saves_is_done_once(tmp_path, hook):
    """Wherever it saves: the evaluations are those of the run that goes through."""

    def run(place, callbacks, resume=None):
        counting = Counting()
        trainer = made(place, callbacks=[counting, *callbacks], eval_strategy="steps", eval_steps=2, logging_steps=2)
        for one in callbacks:
            one.trainer = trainer
        trainer.train(resume_from_checkpoint=resume)
        history = [{k: v for k, v in one.items() if "second" not in k and "time" not in k} for one in
                   trainer.state.log_history[:-1]]  # fmt: skip
        return history, counting.count

    straight = run(tmp_path / "straight", [])
    assert run(tmp_path / "saved", [SaveItself((4,), hook)]) == straight
    assert run(tmp_path / "resumed", [], str(tmp_path / "saved" / "checkpoint-4")) == straight
    assert straight[1] == 3


class Scored(Trainer):
    """Gives the scores that it is told, in turn."""

    scores: dict[int, float]

    def evaluate(self, *given, **named):
        metrics = {"eval_score": self.scores[self.state.global_step]}
        self.control = self.callback_handler.fire("evaluate", self.args, self.state, self.control, metrics=metrics)
        return metrics


@pytest.mark.parametrize("strategy", ["steps", "best"])
@pytest.mark.parametrize("foreign", [False, True], ids=["background", "waiting"])
def test_the_best_is_a_checkpoint_that_there_is(tmp_path, monkeypatch, strategy, foreign):
    real = writer.write_tensors

    def full(tensors, path, **named):
        if f"checkpoint-{2}-" in str(path):
            raise OSError(28, "No space left on device")
        return real(tensors, path, **named)

    class Heard(TrainerCallback):
        def on_save(self, *given, **named):
            pass

    monkeypatch.setattr(writer, "write_tensors", full)
    trainer = made(
        tmp_path, kind=Scored, callbacks=[Heard()] if foreign else [], eval_strategy="steps", eval_steps=1,
        save_strategy=strategy, save_steps=1, max_steps=4, load_best_model_at_end=True, metric_for_best_model="score",
        greater_is_better=True,
    )  # fmt: skip
    trainer.scores = {1: 0.1, 2: 0.9, 3: 0.5, 4: 0.2}  # the best cannot be written
    trainer.train()
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (0.5, 3)
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-3")
    best = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    assert all(torch.equal(best[name], p) for name, p in trainer.model.named_parameters())


def test_a_last_save_that_fails_leaves_the_best_before(tmp_path, monkeypatch):
    real = writer.write_tensors
    monkeypatch.setattr(
        writer,
        "write_tensors",
        lambda tensors, path, **named: 1 / 0 if "-4-" in str(path) else real(tensors, path, **named),
    )
    trainer = made(
        tmp_path, kind=Scored, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2, max_steps=4,
        load_best_model_at_end=True, metric_for_best_model="score", greater_is_better=True,
    )  # fmt: skip
    trainer.scores = {2: 0.1, 4: 0.9}
    with pytest.raises(SaveError):
        trainer.train()
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (0.1, 2)


def test_a_moving_average_is_in_every_checkpoint(tmp_path, caplog):
    settings = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "ema_decay": 0.9,
                "save_only_model": True}  # fmt: skip
    trainer = made(tmp_path / "run", load_best_model_at_end=True, **settings)
    trainer.train()
    best = load_file(tmp_path / "run" / f"checkpoint-{trainer.state.best_global_step}" / "model.safetensors")
    assert all(torch.equal(p, best[name]) for name, p in trainer.model.named_parameters())
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoint-6").iterdir() if path.suffix == ".pt") == [
        "ema.pt"
    ]
    resumed = made(tmp_path / "run", max_steps=7, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert folder.load(tmp_path / "run" / "checkpoint-7" / "ema.pt")["updates"] == 7
    assert "moving average" not in caplog.text


# ---- skipped steps


def test_a_skipped_step_is_in_no_average(tmp_path):
    kind = type("Case", (Poisoned,), {"at": (3,)})
    averages = []

    class TokenStatistics(TrainerCallback):
        def on_step_end(self, *given, **named):
            averages.append((trainer.ema.updates, [w.clone() for w in trainer.ema.weights.values()]))

    trainer = made(tmp_path, kind=kind, callbacks=[TokenStatistics()], ema_decay=0.9, optim="sgd")
    trainer.train()
    assert [updates for updates, _ in averages] == [1, 2, 2, 3, 4, 5]
    assert all(torch.equal(one, other) for one, other in zip(averages[1][1], averages[2][1], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_device_that_knows_alone_of_a_bad_step_averages_as_the_host_does(dtype):
    torch.manual_seed(0)
    model = nn.Linear(3, 2).to(dtype)
    host, device = Ema(model, 0.5, Strategy()), Ema(model, 0.5, Strategy())
    for bad in (False, True, False, True, True, False, False):
        for p in model.parameters():
            p.data.add_(torch.randn_like(p))
        before = [w.clone() for w in device.weights.values()]
        host.update(model, bad)
        device.update(model, torch.tensor(bad))
        if bad:
            assert all(torch.equal(one, other) for one, other in zip(before, device.weights.values(), strict=True))
    assert device.state_dict(model)["updates"] == host.updates == 4
    for one, other in zip(host.weights.values(), device.weights.values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)  # the decay is float32 on a device
    device.load_state_dict(host.state_dict(model), model)
    assert device.updates == 4


class Buffered(nn.Module):
    """Buffers that a forward pass changes in every way."""

    def __init__(self):
        super().__init__()
        for name in ("inside", "anew", "grown", "made", "cast"):
            self.register_buffer(name, None if name == "made" else torch.zeros(2))

    def forward(self, x):
        self.inside += x
        self.anew = x
        self.grown = torch.cat([self.grown, x])
        self.made = x.clone()
        self.cast = (self.cast + x).double()


@pytest.mark.parametrize("known", [True, torch.tensor(True)], ids=["host", "device"])
def test_buffers_of_every_kind_are_put_back(known):
    model, row = Buffered(), torch.full((2,), float("nan"))
    buffers = Buffers(model)
    buffers.keep()
    model(row)
    buffers.put_back(known)
    assert model.made is None
    assert [getattr(model, name).tolist() for name in ("inside", "anew", "grown", "cast")] == [[0.0, 0.0]] * 4
    assert model.cast.dtype == torch.float32
    assert row.isnan().all()  # the user's own, which a buffer was for a while
    good = torch.ones(2)
    buffers.keep()
    model(good)
    buffers.put_back(False if known is True else torch.tensor(False))
    assert model.inside.tolist() == model.anew.tolist() == model.made.tolist() == model.cast.tolist() == [1.0, 1.0]
    assert model.grown.tolist() == [0.0, 0.0, 1.0, 1.0]


# ---- what the user has made


@pytest.mark.parametrize("both", [False, True])
def test_an_optimizer_that_was_made_before_training_keeps_what_was_changed(tmp_path, both):
    def trained(library):
        trainer = made(tmp_path / library.__name__, library=library, optim="adamw_torch")
        before = trainer.model.layers[0].bias.detach().clone()
        if both:
            trainer.create_optimizer_and_scheduler(6)
        else:
            trainer.create_optimizer()
        for group in trainer.optimizer.param_groups:
            if any(p is trainer.model.layers[0].bias for p in group["params"]):
                group["lr"] = group["initial_lr"] = 0.0
        if both:
            trainer.lr_scheduler.base_lrs = [group["initial_lr"] for group in trainer.optimizer.param_groups]
        mine = trainer.optimizer
        trainer.train()
        kept = getattr(trainer.optimizer, "optimizer", trainer.optimizer) is mine
        return kept, torch.equal(before, trainer.model.layers[0].bias)

    assert trained(trainwright) == trained(transformers) == (True, True)


def test_what_a_run_made_is_made_anew_and_what_an_override_made_too(tmp_path):
    class Own(Trainer):
        def create_optimizer(self, model=None):
            if self.optimizer is None:
                self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
            return self.optimizer

    for kind in (Trainer, Own):
        trainer = made(tmp_path / kind.__name__, kind=kind)
        trainer.train()
        first = trainer.optimizer
        trainer.train()
        assert trainer.optimizer is not first
        trainer.optimizer = mine = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
        trainer.train()
        assert trainer.optimizer is mine


# ---- weights that are left out on purpose


def marian():
    torch.manual_seed(0)
    config = transformers.MarianConfig(
        vocab_size=32, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=16, pad_token_id=0,
        decoder_start_token_id=0, eos_token_id=1, dropout=0.0,
    )  # fmt: skip
    return transformers.MarianMTModel(config)


class Leaving(transformers.BertPreTrainedModel):
    """Leaves out a weight that is tied, one that is computed, and one that is trained."""

    _keys_to_ignore_on_save = ["tied.weight", "table", "alone"]

    def __init__(self, config):
        super().__init__(config)
        self.first, self.tied = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.tied.weight = self.first.weight
        self.table = nn.Parameter(torch.ones(4), requires_grad=False)
        self.alone = nn.Parameter(torch.ones(4))

    def forward(self, x, labels=None):
        out = (self.tied(self.first(x.float())) * self.table + self.alone).sum(-1)
        return {"loss": ((out - labels) ** 2).mean(), "logits": out}


def leaving():
    torch.manual_seed(0)
    return Leaving(tiny.bert_config())


@pytest.mark.parametrize("build", [marian, leaving])
def test_weights_that_are_left_out_on_purpose_are_not_missed(tmp_path, build):
    generator = torch.Generator().manual_seed(1)
    tokens = [{"input_ids": torch.randint(2, 32, (6,), generator=generator),
               "labels": torch.randint(2, 32, (5,), generator=generator)} for _ in range(16)]  # fmt: skip
    data = tokens if build is marian else cases.rows()
    settings = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
                "load_best_model_at_end": True}  # fmt: skip
    straight = made(tmp_path / "straight", build(), data=data, **settings)
    straight.train()
    resumed = made(tmp_path / "resumed", build(), data=data, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-4"))
    for one, other in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    held = load_file(tmp_path / "straight" / "checkpoint-4" / "model.safetensors")
    assert not any("embed_positions" in name or name in ("tied.weight", "table") for name in held)
    if build is leaving:
        assert "alone" in held  # it would be lost


def test_weights_that_are_missing_otherwise_are_missed(tmp_path):
    weights.save_model(leaving(), tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    torch.save(
        {name: tensor for name, tensor in held.items() if name != "first.weight"}, tmp_path / "pytorch_model.bin"
    )
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing: .*first.weight"):
        weights.load_model(leaving(), tmp_path)


# ---- modes, generators, attention, the terminal


class Slow(torch.utils.data.Dataset):
    """Draws a number for every row, and lets other threads go on meanwhile."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        first = np.random.rand()
        time.sleep(0.0005)
        return {"x": torch.full((4,), first), "labels": torch.tensor(np.random.rand())}


def test_runs_in_two_threads_put_the_generators_back(tmp_path):
    own = np.random.get_bit_generator()
    made(tmp_path / "alone", data=Slow()).train()
    seen = []

    class Keeps(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            seen.append((self.state.global_step, inputs["x"][:, 0].tolist()))
            return super().training_step(model, inputs, num_items_in_batch)

    made(tmp_path / "again", kind=Keeps, data=Slow()).train()
    alone, seen[:] = dict(seen), []
    runs = [made(tmp_path / str(number), kind=Keeps, data=Slow()) for number in range(2)]
    threads = [threading.Thread(target=run.train) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.random.get_bit_generator() is own
    assert len(seen) == 12
    assert all(alone[step] == rows for step, rows in seen)  # each as if it were alone


def test_a_trainer_within_a_callback_does_not_seed_the_run_around_it(tmp_path):
    def losses(trains):
        class Probe(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                model = cases.Net()  # which draws, as code of the user's may
                if trains:
                    again = trainwright.TrainingArguments(
                        str(tmp_path / "probe"), max_steps=1, save_strategy="no", use_cpu=True, disable_tqdm=True
                    )
                    Trainer(model, again, train_dataset=cases.rows()).train()

        trainer = made(tmp_path / str(trains), callbacks=[Probe()])
        trainer.train()
        return [one["loss"] for one in trainer.state.log_history if "loss" in one], torch.rand(()).item()

    assert losses(True) == losses(False)


def test_numbers_drawn_within_numbers_are_put_back():
    with randomness.seeded(1):
        drawn = (np.random.rand(), np.random.rand(), random.random())
    own = np.random.get_bit_generator()
    with randomness.seeded(1):
        first = np.random.rand()
        with pytest.raises(ValueError, match="inside"), randomness.seeded(2):
            np.random.rand()
            raise ValueError("inside")
        assert (first, np.random.rand(), random.random()) == drawn
    assert np.random.get_bit_generator() is own


@pytest.mark.parametrize("noise", [None, 5.0])
def test_a_run_that_cannot_begin_leaves_the_model_as_it_was(tmp_path, noise):
    data = [{"input_ids": list(range(2, 8)), "labels": list(range(2, 8))} for _ in range(8)]
    made(tmp_path, tiny.llama(), data=data, save_strategy="steps", save_steps=3).train()
    model = tiny.llama()
    attention, hooks = model.config._attn_implementation, len(model.get_input_embeddings()._forward_hooks)
    broken = made(tmp_path, model, data=data, optim="sgd", neftune_noise_alpha=noise)
    with pytest.raises(CheckpointError, match="optimizer"):
        broken.train(resume_from_checkpoint=True)
    assert model.config._attn_implementation == attention
    assert len(model.get_input_embeddings()._forward_hooks) == hooks


class Rows(torch.utils.data.Dataset):
    """Draws from everyone's generator and one of its own."""

    def __init__(self):
        self.own = random.Random(3)

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return {"x": torch.rand(4) + self.own.random(), "labels": torch.tensor(np.random.rand())}


class Records(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss = {"loss": loss, "double": 2 * loss}
        return (loss, outputs) if return_outputs else loss


class Normed(cases.Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x, labels=None):
        return super().forward(self.norm(x.float()), labels)


@pytest.mark.parametrize("fails", [False, True])
def test_a_replay_leaves_all_as_it_was(tmp_path, monkeypatch, fails):
    def run(place, replays):
        class Replay(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step == 4 and replays:
                    trainer.run.writer.close()
                    with monkeypatch.context() as patch:
                        if fails:
                            patch.setattr("trainwright.evaluation.replay.row_loss", lambda *given: 1 / 0)
                            with pytest.raises(ZeroDivisionError):
                                trainer.replay(4, loss=True)
                        else:
                            assert trainer.replay(4, loss=True).rows[0].loss > 0

        torch.manual_seed(1)
        trainer = made(place, Normed(), Records, [Replay()], data=Rows(), save_strategy="steps", save_steps=3)
        trainer.train()
        kept = [one for one in trainer.state.log_history if "loss" in one]
        return [*trainer.model.parameters(), *trainer.model.buffers()], kept

    (ours, logs), (theirs, expected) = run(tmp_path / "a", True), run(tmp_path / "b", False)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert logs == expected
