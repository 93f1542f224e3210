"""The moving average of the weights against one kept by hand in float64."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.language import tiny_language as lm
from trainwright import ConfigError, Trainer, TrainerCallback, TrainingArguments
from trainwright.engine.ema import Ema

CLOSE = 1e-6  # float32 against float64
DECAY = 0.9


class ByHand(TrainerCallback):
    """Averages every step's weights in float64."""

    def __init__(self):
        self.average = None
        self.updates = 0

    def on_train_begin(self, args, state, control, model, **_):
        self.average = {name: p.detach().double().clone() for name, p in model.named_parameters()}

    def on_step_end(self, args, state, control, model, **_):
        decay = min(DECAY, (1 + self.updates) / (10 + self.updates))
        for name, p in model.named_parameters():
            self.average[name] = decay * self.average[name] + (1 - decay) * p.detach().double()
        self.updates += 1


def trainer(folder, callbacks=(), **more):
    args = TrainingArguments(
        str(folder), max_steps=12, learning_rate=0.05, save_steps=6, ema_decay=DECAY, use_cpu=True, disable_tqdm=True,
        per_device_train_batch_size=4, logging_steps=1, **more,
    )  # fmt: skip
    return Trainer(tiny.new_line(), args, train_dataset=tiny.line_rows(24), eval_dataset=tiny.line_rows(8),
                   callbacks=list(callbacks))  # fmt: skip


def test_the_average_is_evaluated_and_saved(tmp_path):
    hand = ByHand()
    made = trainer(tmp_path, [hand])
    made.train()
    last = {name: p.detach().clone() for name, p in made.model.named_parameters()}
    for name, average in made.ema.weights.items():
        torch.testing.assert_close(average.double(), hand.average[name], atol=CLOSE, rtol=0)
    assert any((average - last[name]).abs().max() > 1e-3 for name, average in made.ema.weights.items())
    evaluated = made.evaluate()["eval_loss"]
    plain = trainer(tmp_path / "plain")
    plain.model.load_state_dict({name: average.float() for name, average in hand.average.items()})
    assert plain.evaluate()["eval_loss"] == pytest.approx(evaluated, abs=CLOSE)
    made.save_model(str(tmp_path / "final"))
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "final" / "model.safetensors")
    for name, p in made.model.named_parameters():
        assert torch.equal(saved[name], made.ema.weights[name])
        assert torch.equal(p, last[name])  # training goes on with the last step's


def test_a_resumed_average_is_bitwise_the_same(tmp_path):
    straight = trainer(tmp_path / "straight")
    straight.train()
    half = trainer(tmp_path / "half")
    half.train()
    again = trainer(tmp_path / "half")
    again.train(resume_from_checkpoint=str(tmp_path / "half" / "checkpoint-6"))
    assert again.ema.updates == straight.ema.updates == 12
    for name, average in straight.ema.weights.items():
        assert torch.equal(average, again.ema.weights[name])


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
    average = Ema(model, 0.999)
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
    old = {"updates": 7, "weights": {"weight": torch.full((1, 1), 1.5, dtype=dtype)}}  # of a checkpoint before
    average.load_state_dict(old)
    assert (average.weights["weight"].dtype, average.weights["weight"].item()) == (kept, 1.5)


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
        per_device_train_batch_size=4, save_strategy="no", report_to="none",
    )  # fmt: skip
    made = Trainer(model, args, train_dataset=rows, callbacks=[hand])
    made.train()
    assert made.ema.weights
    for name, average in made.ema.weights.items():
        torch.testing.assert_close(average.double(), hand.average[name], atol=CLOSE, rtol=0)
    made.save_model(str(tmp_path / "final"))
    from safetensors.torch import load_file

    saved = load_file(next((tmp_path / "final").glob("*model.safetensors")))
    averages = {name.replace(".default", ""): value for name, value in made.ema.weights.items()}
    for name in set(averages) & set(saved):
        assert saved[name].dtype == torch.bfloat16
        assert torch.equal(saved[name], averages[name].to(torch.bfloat16))
    assert len(set(averages) & set(saved)) == len(averages)
