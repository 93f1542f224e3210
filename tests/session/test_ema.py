"""The moving average of the weights against one kept by hand in float64: it is what is evaluated, saved and left in the
model, and a run goes on from the last step's weights."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tests import tiny_language as lm
from trainwright import ConfigError, Strategy, Trainer, TrainerCallback, TrainingArguments
from trainwright.checkpoint import folder
from trainwright.session.ema import Ema

CLOSE = 1e-6  # float32 against float64
DECAY = 0.9


class ByHand(TrainerCallback):
    """Averages every step's weights in float64, and keeps the last step's."""

    def __init__(self):
        self.average = self.last = None
        self.updates = 0

    def on_train_begin(self, args, state, control, model, **_):
        self.average = {name: p.detach().double().clone() for name, p in model.named_parameters()}

    def on_step_end(self, args, state, control, model, **_):
        decay = min(DECAY, (1 + self.updates) / (10 + self.updates))
        for name, p in model.named_parameters():
            self.average[name] = decay * self.average[name] + (1 - decay) * p.detach().double()
        self.last = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.updates += 1


def trainer(place, callbacks=(), **changes):
    settings = {"max_steps": 12, "learning_rate": 0.05, "save_steps": 6, "ema_decay": DECAY, "use_cpu": True,
                "disable_tqdm": True, "per_device_train_batch_size": 4, "logging_steps": 1}  # fmt: skip
    args = TrainingArguments(str(place), **{**settings, **changes})
    return Trainer(tiny.new_line(), args, train_dataset=tiny.line_rows(24), eval_dataset=tiny.line_rows(8),
                   callbacks=list(callbacks))  # fmt: skip


def same(model, weights):
    return all(torch.equal(p, weights[name]) for name, p in model.named_parameters())


def test_the_average_is_evaluated_saved_and_left_in_the_model(tmp_path):
    hand = ByHand()
    made = trainer(tmp_path, [hand], eval_strategy="steps", eval_steps=6)
    made.train()
    for name, p in made.model.named_parameters():
        torch.testing.assert_close(p.double(), hand.average[name], atol=CLOSE, rtol=0)
        assert (p - hand.last[name]).abs().max() > 1e-3
    made.save_model(str(tmp_path / "final"))
    for place in (tmp_path / "final", tmp_path / "checkpoint-12"):
        assert same(made.model, load_file(place / "model.safetensors"))
    logged = [one["eval_loss"] for one in made.state.log_history if "eval_loss" in one]
    for step, loss in zip((6, 12), logged, strict=True):
        plain = trainer(tmp_path / "plain", ema_decay=None)
        plain.model.load_state_dict(load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors"))
        assert plain.evaluate()["eval_loss"] == loss
    assert made.evaluate()["eval_loss"] == logged[-1]
    made.model.load_state_dict(hand.last)
    assert made.evaluate()["eval_loss"] != logged[-1]  # the model is the user's again


def test_a_run_that_failed_leaves_no_average_behind(tmp_path):
    class Fails(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 5:
                raise ValueError("it fails")

    made, rows = trainer(tmp_path, [Fails()]), tiny.line_rows(8)
    with pytest.raises(ValueError, match="it fails"):
        made.train()
    made.model.load_state_dict({name: p + 1 for name, p in made.model.state_dict().items()})
    x, labels = (torch.stack([row[name] for row in rows]) for name in ("x", "labels"))
    with torch.no_grad():
        expected = float(((made.model.layer(x).squeeze(-1) - labels) ** 2).mean())
    assert made.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)


def as_before(place):
    """Write a checkpoint as the first version did: the weights are the last step's, and the average is beside them."""
    state = folder.load(place / "ema.pt")
    save_file(state.pop("last"), place / "model.safetensors", metadata={"format": "pt"})
    torch.save(state, place / "ema.pt")
    run_id = folder.run_of(place)
    (place / folder.MANIFEST).unlink()
    folder.seal(place, run_id)


@pytest.mark.parametrize("first_version", [False, True])
@pytest.mark.parametrize("resumed", [DECAY, None], ids=["average", "without"])
def test_a_run_goes_on_from_the_last_step_bitwise(tmp_path, first_version, resumed):
    straight, hand = trainer(tmp_path / "straight", ema_decay=resumed), ByHand()
    straight.train()
    trainer(tmp_path / "run").train()
    if first_version:
        as_before(tmp_path / "run" / "checkpoint-6")
    again = trainer(tmp_path / "run", [hand], ema_decay=resumed)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    assert same(again.model, straight.model.state_dict())
    if resumed is not None:
        kept = folder.load(tmp_path / "straight" / "checkpoint-12" / "ema.pt")
        assert kept["updates"] == folder.load(tmp_path / "run" / "checkpoint-12" / "ema.pt")["updates"] == 12
        assert all(torch.equal(hand.last[name], last) for name, last in kept["last"].items())


def test_a_checkpoint_written_within_an_evaluation_is_of_the_step(tmp_path):
    class Save(TrainerCallback):
        def on_prediction_step(self, args, state, control, **_):
            if state.global_step == 6:
                saving._save_checkpoint(saving.model, None)

    evaluated = {"eval_strategy": "steps", "eval_steps": 6}
    straight = trainer(tmp_path / "straight", **evaluated)
    straight.train()
    saving = trainer(tmp_path / "run", [Save()], save_strategy="no", **evaluated)
    saving.train()
    assert same(saving.model, straight.model.state_dict())
    again = trainer(tmp_path / "run", **evaluated)
    again.train(resume_from_checkpoint=True)
    assert same(again.model, straight.model.state_dict())


@pytest.mark.parametrize("first_version", [False, True])
def test_the_best_model_is_the_average_that_was_evaluated(tmp_path, first_version):
    settings = {"eval_strategy": "steps", "eval_steps": 3, "save_steps": 3, "max_steps": 6, "greater_is_better": True,
                "load_best_model_at_end": True, "metric_for_best_model": "loss"}  # fmt: skip

    class Before(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 3 and first_version:
                made.run.writer.close()
                as_before(tmp_path / "checkpoint-3")

    made = trainer(tmp_path, [Before()], **settings)
    made.train()
    assert made.state.best_global_step == 3
    assert made.evaluate()["eval_loss"] == made.state.best_metric


def test_a_step_is_replayed_with_the_weights_that_trained_it(tmp_path):
    rows = []
    for decay in (DECAY, None):
        made = trainer(tmp_path / str(decay), ema_decay=decay)
        made.train()
        rows.append([row.loss for row in made.replay(7, loss=True).rows])
    assert rows[0] == rows[1]


def test_a_decay_that_is_none():
    with pytest.raises(ConfigError, match="ema_decay=1.5 must be a number from 0 to below 1, or be left out"):
        TrainingArguments("out", ema_decay=1.5)


@pytest.mark.parametrize(
    ("dtype", "kept", "close"),
    [(torch.bfloat16, torch.float32, 1e-6), (torch.float16, torch.float32, 1e-6), (torch.float32, torch.float32, 1e-6),
     (torch.float64, torch.float64, 1e-14)],
)  # fmt: skip
def test_the_average_moves_in_every_format(dtype, kept, close):
    model = torch.nn.Linear(1, 1, bias=False).to(dtype)
    model.weight.data.fill_(1.0)
    average = Ema(model, 0.999, Strategy())
    average.updates = 20_000  # past the warm-up of the decay
    model.weight.data.fill_(2.0)
    for _ in range(2000):
        average.update(model)
    expected = 2 - 0.999**2000  # of a geometric series
    assert average.weights["weight"].dtype == kept
    assert average.weights["weight"].item() == pytest.approx(expected, abs=close)
    with average.applied(model):
        assert model.weight.dtype == dtype
        assert torch.equal(model.weight.data, average.weights["weight"].to(dtype))
    assert model.weight.item() == 2
    state = average.state_dict(model)
    assert state["last"]["weight"] is not model.weight
    assert state["last"]["weight"].dtype == dtype
    old = {"updates": 7, "weights": {"weight": torch.full((1, 1), 1.5, dtype=dtype)}}  # of a checkpoint before
    average.load_state_dict(old, model)
    assert (average.weights["weight"].dtype, average.weights["weight"].item()) == (kept, 1.5)
    average.leave(model)
    assert (model.weight.dtype, model.weight.item()) == (dtype, 1.5)


@pytest.mark.parametrize("adapters", [False, True], ids=["whole", "adapters"])
def test_the_average_of_a_language_model_in_bfloat16(tmp_path, adapters):
    model = lm.new_model().to(torch.bfloat16)
    if adapters:
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        model = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    hand = ByHand()
    rows = [{"input_ids": list(range(i, i + 6)), "labels": list(range(i, i + 6))} for i in range(8)]
    args = TrainingArguments(
        str(tmp_path), max_steps=6, learning_rate=0.01, ema_decay=DECAY, use_cpu=True, disable_tqdm=True,
        per_device_train_batch_size=4, save_steps=6, report_to="none",
    )  # fmt: skip
    made = Trainer(model, args, train_dataset=rows, callbacks=[hand])
    made.train()
    kept = folder.load(tmp_path / "checkpoint-6" / "ema.pt")
    assert kept["weights"]
    for name, average in kept["weights"].items():
        torch.testing.assert_close(average.double(), hand.average[name], atol=CLOSE, rtol=0)
        assert torch.equal(kept["last"][name], hand.last[name])
        assert torch.equal(made.model.get_parameter(name), average.to(torch.bfloat16))
    made.save_model(str(tmp_path / "final"))
    averages = {name.replace(".default", ""): value for name, value in kept["weights"].items()}
    for place in (tmp_path / "final", tmp_path / "checkpoint-6"):
        saved = load_file(next(place.glob("*model.safetensors")))
        assert len(set(averages) & set(saved)) == len(averages)
        for name, average in averages.items():
            assert saved[name].dtype == torch.bfloat16
            assert torch.equal(saved[name], average.to(torch.bfloat16))
