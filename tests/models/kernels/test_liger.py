"""Liger's kernels: refused in a sentence where they cannot be had. That they compute the same is seen on a GPU."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from tests import tiny
from trainwright import ConfigError, Trainer, TrainingArguments
from trainwright.models.kernels.liger import use_liger_kernels


@pytest.fixture
def applied(monkeypatch):
    """What Liger is asked for, by a stand-in of the package: it cannot be imported without a GPU's compiler."""
    asked = []

    def of_llama(rope=True, rms_norm=True, cross_entropy=False, fused_linear_cross_entropy=True, model=None):
        """Never called: its parameters are asked for."""

    package, transformers, patches = (ModuleType(name) for name in ("liger_kernel", "transformers", "monkey_patch"))
    package.__spec__ = ModuleType("spec")  # which find_spec returns
    transformers._apply_liger_kernel_to_instance = lambda model, **kernels: asked.append((model, kernels))
    patches.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": of_llama}
    for name, module in (("", package), (".transformers", transformers), (".transformers.monkey_patch", patches)):
        monkeypatch.setitem(sys.modules, f"liger_kernel{name}", module)
    return asked


def test_the_loss_stays_ours(applied):
    model = tiny.llama()
    use_liger_kernels(model, {"rope": False, "fused_linear_cross_entropy": True}, torch.device("cuda"))
    assert applied == [(model, {"rope": False, "cross_entropy": False, "fused_linear_cross_entropy": False})]


@pytest.mark.parametrize(
    ("make", "settings", "device", "wrong"),
    [
        (tiny.llama, {}, "cpu", "run on GPUs, and this run is on the CPU"),
        (tiny.gpt2, {}, "cuda", "Liger has no kernels for 'gpt2'.*: llama"),
        (lambda: torch.nn.Linear(2, 2), {}, "cuda", "Liger has no kernels for 'Linear'"),
        (tiny.llama, {"rms_norms": True}, "cuda", "'rms_norms' is not known. Did you mean 'rms_norm'"),
    ],
)
def test_what_cannot_be_had_is_said(applied, make, settings, device, wrong):
    with pytest.raises(ConfigError, match=wrong):
        use_liger_kernels(make(), settings, torch.device(device))
    assert applied == []


def test_it_is_said_before_training(tmp_path, monkeypatch, applied):
    kernels = {"use_liger_kernel": True, "liger_kernel_config": {"rope": False}}
    args = TrainingArguments(str(tmp_path), **kernels, max_steps=1, use_cpu=True)
    with pytest.raises(ConfigError, match="run on GPUs"):
        Trainer(tiny.llama(), args, train_dataset=tiny.tokens(8)).train()
    monkeypatch.delitem(sys.modules, "liger_kernel")
    with pytest.raises(ConfigError, match="needs the package liger-kernel"):
        TrainingArguments(str(tmp_path), use_liger_kernel=True)
