"""AdamW on bfloat16 with stochastic rounding, Muon beside AdamW, and optimizers of 8 bits."""

from __future__ import annotations

import shutil

import pytest
import torch

from tests import tiny
from trainwright import ConfigError, Trainer, TrainingArguments
from trainwright.optim import bf16
from trainwright.optim.bf16 import AdamWBF16, random_bits, rounded
from trainwright.optim.muon import MuonAndAdamW, split_groups


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def made(place, model, **changes):
    settings = {
        "max_steps": 6, "save_steps": 3, "logging_steps": 1, "per_device_train_batch_size": 4, "report_to": "none",
        "disable_tqdm": True, "learning_rate": 1e-2, "weight_decay": 0.1, "use_cpu": True,
    }  # fmt: skip
    return Trainer(model, TrainingArguments(str(place), **{**settings, **changes}), train_dataset=tiny.tokens(8))


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_rounding_gives_the_two_neighbours_and_their_mean_is_the_value():
    values = torch.tensor([1.0, 1.001, -3.3, 1e-30, 0.0]).repeat(20_000, 1)
    found = rounded(values, random_bits(values, (1, 2), generator())).float()
    below, above = values.bfloat16().float(), torch.nextafter(values.bfloat16(), torch.tensor(9e9).bfloat16())
    step = (above.float() - below).abs().amax(0)
    assert bool(((found - values).abs() < step).all())
    exact = values.bfloat16().float() == values
    assert torch.equal(found[exact], values[exact])
    spread = step / 20_000**0.5  # of a mean of so many coins
    assert bool(((found.double().mean(0) - values[0]).abs() <= 4 * spread).all())


def test_random_bits_are_other_ones_for_every_key_and_block_and_the_same_again(monkeypatch):
    monkeypatch.setattr(bf16, "_BLOCK", 1 << 18)
    values = torch.zeros(600, 1000)  # three blocks
    one, again, other = (random_bits(values, (1, key), generator(key)) for key in (2, 2, 3))
    assert torch.equal(one, again)
    assert float((one == other).float().mean()) < 1e-3
    assert float((one[:262] == one[263:525]).float().mean()) < 1e-3
    assert float(one.double().mean()) == pytest.approx(2**15, rel=1e-3)


def test_updates_below_half_a_step_of_the_format_are_not_lost():
    torch.manual_seed(0)
    start, gradients = torch.ones(4000), [torch.ones(4000) for _ in range(200)]
    exact, low, nearest = (torch.nn.Parameter(start.to(kind)) for kind in (torch.float32, *[torch.bfloat16] * 2))
    steps = [torch.optim.AdamW([exact], lr=1e-4), AdamWBF16([low], lr=1e-4), torch.optim.AdamW([nearest], lr=1e-4)]
    for gradient in gradients:
        for parameter, optimizer in zip((exact, low, nearest), steps, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
            optimizer.step()
    assert float(exact.mean()) == pytest.approx(0.98, abs=5e-3)
    assert float(nearest.float().mean()) == 1.0  # half a step below 1 is 0.002
    assert float(low.float().mean()) == pytest.approx(float(exact.mean()), abs=5e-4)  # of 4,000 weights


def test_weights_of_float32_are_updated_as_torch_does_it():
    torch.manual_seed(0)
    one, other = (torch.nn.Parameter(torch.linspace(-1, 1, 30)) for _ in range(2))
    settings = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-6}
    ours, theirs = AdamWBF16([one], **settings), torch.optim.AdamW([other], **settings)
    for _ in range(10):
        one.grad = torch.randn(30)
        other.grad = one.grad.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_an_update_is_left_out_on_the_device_where_it_is_asked_to_be():
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = AdamWBF16([parameter], lr=0.1)
    parameter.grad = torch.full((3,), float("nan"), dtype=torch.bfloat16)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    state = optimizer.state[parameter]
    assert torch.equal(parameter, torch.ones(3, dtype=torch.bfloat16))
    assert [float(value.sum()) for value in state.values()] == [0, 0, 0]
    optimizer.found_inf = torch.tensor(0.0)
    parameter.grad = torch.ones(3, dtype=torch.bfloat16)
    optimizer.step()
    assert float(state["step"]) == 1
    assert bool((parameter < 1).all())


def test_rounding_leaves_the_random_numbers_of_the_run_alone_and_is_the_same_on_every_rank():
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        parameter = torch.nn.Parameter(torch.linspace(0, 1, 1000).bfloat16())
        parameter.grad = torch.linspace(-1, 1, 1000).bfloat16()
        AdamWBF16([parameter], lr=1e-3).step()
        found.append(parameter.detach())
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*found)


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["adamw_bf16", "muon", "adamw_bnb_8bit"])
def test_a_run_learns_and_is_resumed_bitwise(tmp_path, optim):
    if optim == "adamw_bnb_8bit":
        pytest.importorskip("bitsandbytes")
    kind = torch.bfloat16 if optim == "adamw_bf16" else torch.float32
    whole = made(tmp_path, tiny.llama().to(kind), optim=optim)
    whole.train()
    assert losses(whole)[-1] < losses(whole)[0]
    shutil.rmtree(tmp_path / "checkpoint-6")
    again = made(tmp_path, tiny.llama(seed=5).to(kind), optim=optim)
    again.train(resume_from_checkpoint=True)
    assert losses(again) == losses(whole)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))


def test_muon_is_torchs_on_matrices_of_hidden_layers_and_adamw_elsewhere():
    model, theirs = tiny.llama(), tiny.llama()
    groups = [{"params": list(model.parameters()), "weight_decay": 0.1}]
    ours = MuonAndAdamW(split_groups(model, groups), lr=1e-2)
    hidden = [p for name, p in theirs.named_parameters() if p.ndim == 2 and "embed" not in name and "head" not in name]
    others = [p for p in theirs.parameters() if all(p is not one for one in hidden)]
    parts = [
        torch.optim.Muon(hidden, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=1e-2, weight_decay=0.1),
    ]
    ids = torch.randint(3, tiny.VOCABULARY, (2, 9), generator=generator())
    for _ in range(3):
        for one in (model, theirs):
            one.zero_grad()
            one(input_ids=ids, labels=ids).loss.backward()
        for optimizer in (ours, *parts):
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), theirs.parameters(), strict=True))
    assert sum(len(group["params"]) for group in ours.param_groups if group["muon"]) == len(hidden) == 14


def test_settings_that_nothing_reads_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="nothing reads 'nesterof' with optim='muon'. It takes: momentum, ns_steps"):
        made(tmp_path, tiny.llama(), optim="muon", optim_args="nesterof=True").train()
    with pytest.raises(ConfigError, match="invalid literal for int"):
        made(tmp_path, tiny.llama(), optim="muon", optim_args="ns_steps=five").train()
