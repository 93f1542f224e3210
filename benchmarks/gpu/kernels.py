"""Kernels: attention within documents by all there are, and the output layer with its loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from itertools import product
from typing import Any

import torch
from torch.nn import functional

from benchmarks.gpu.toys import Setting, expect


def timed(setting: Setting, run: Callable[[], Any], times: int = 5) -> tuple[float, float]:
    """Return the milliseconds of a call, the fastest of some, and the GB that it takes at most, beside what is held."""
    run()
    if not setting.on_card:
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start), 0.0
    found = []
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(times):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end))
    return min(found), (torch.cuda.max_memory_allocated() - held) / 2**30


def attention(setting: Setting) -> dict[str, Any]:
    """Every kernel that there is: its numbers beside float64 of each document alone, and its time beside the mask's.

    What passes is told as the line that records it (`models/kernels/attention.py: PASSED`).
    """
    from trainwright.models.kernels.attention import KERNELS, Attended, Documents, Passed, attend, by_document

    lengths = setting.pick([1500, 700, 1, 2000, 899, 3092], [5, 1, 20, 6])
    heads, key_heads, width = setting.pick((32, 8, 128), (4, 2, 16))
    kind = torch.bfloat16 if setting.on_card else torch.float32
    found: dict[str, Any] = {}
    wrong: list[str] = []

    def one(name: str, window: int | None) -> str:
        torch.manual_seed(0)
        shapes = [(1, many, sum(lengths), width) for many in (heads, key_heads, key_heads)]
        parts = [torch.randn(shape, device=setting.device, dtype=kind).requires_grad_() for shape in shapes]
        reason = KERNELS[name].cannot(Attended(*parts, window=window))
        if reason is not None:
            return f"left out: {reason}"
        exact = [part.detach().to(torch.float64).requires_grad_() for part in parts]
        ours = attend(Attended(*parts, window=window), Documents(lengths, name))
        theirs = by_document(Attended(*exact, window=window), Documents(lengths))
        upstream = torch.randn_like(ours)
        gradients = torch.autograd.grad(ours, parts, upstream)
        of_theirs = torch.autograd.grad(theirs, exact, upstream.to(torch.float64))
        off = max(_off(a, b) for a, b in zip((ours, *gradients), (theirs, *of_theirs), strict=True))
        expect(off < (2e-2 if setting.on_card else 1e-5), f"off by {off:.2g}")

        def run() -> Any:
            attended = attend(Attended(*parts, window=window), Documents(lengths, name))
            return torch.autograd.grad(attended, parts, upstream)

        milliseconds, memory = timed(setting, run)
        return f"off {off:.0e}, {milliseconds:.2f} ms, {memory:.2f} GB"

    for name in KERNELS:
        before = len(wrong)
        for window in (None, setting.pick(512, 4)):
            try:
                found[f"{name}, window {window}"] = told = one(name, window)
            except Exception as error:  # told with the others', which have their turn
                wrong.append(f"{name}, window {window}: {type(error).__name__}: {error}")
        if setting.on_card and len(wrong) == before and not told.startswith("left out"):
            card = torch.cuda.get_device_name()
            found[f"{name}, record"] = str(Passed(name, card, ".".join(torch.__version__.split(".")[:2])))
    expect(not wrong, "\n".join([*wrong, *(f"{name}: {told}" for name, told in found.items())]))
    return found


def _off(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours.to(torch.float64) - exact).norm() / exact.norm())


def head(setting: Setting) -> dict[str, Any]:
    """The output layer with its loss, 8,192 tokens and 151,936 classes: numbers, time, memory; beside torch, Liger."""
    from trainwright.objectives.linear import card_products
    from trainwright.objectives.linear.loss import linear_cross_entropy, linear_log_probs

    tokens, classes, width = setting.pick((8192, 151_936, 2048), (64, 300, 16))
    kind = torch.bfloat16 if setting.on_card else torch.float32
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, device=setting.device, dtype=kind).requires_grad_()
    weight = (torch.randn(classes, width, device=setting.device, dtype=kind) / math.sqrt(width)).requires_grad_()
    targets = torch.randint(classes, (tokens,), device=setting.device)

    def plain() -> torch.Tensor:
        return functional.cross_entropy((hidden @ weight.T).float(), targets, reduction="sum")

    ways = {
        "torch": plain,
        "sum": lambda: linear_cross_entropy(hidden, weight, targets),
        "of rows": lambda: -linear_log_probs(hidden, weight, targets).sum(),
    }
    if setting.on_card and find_spec("liger_kernel") is not None:
        ways["Liger"] = lambda: _by_liger(hidden, weight, targets)
    found: dict[str, Any] = {}
    expected = [one.float() for one in torch.autograd.grad(plain(), (hidden, weight))]
    for (name, way), context in product(ways.items(), (nullcontext, card_products.as_on_card)):
        if name in ("torch", "Liger") and context is not nullcontext:
            continue
        with context():

            def run(way: Callable[[], torch.Tensor] = way) -> Any:
                return torch.autograd.grad(way(), (hidden, weight))

            off = max(_off(a, b) for a, b in zip(run(), expected, strict=True))
            milliseconds, memory = timed(setting, run)
        name += "" if context is nullcontext else ", as on a card"
        expect(off < (2e-2 if setting.on_card else 1e-4), f"{name}: gradients are off by {off:.2g}")
        found[name] = f"{milliseconds:.1f} ms, {memory:.2f} GB, gradients off {off:.0e}"
    if setting.on_card:
        version = ".".join(torch.__version__.split(".")[:2])
        found["record"] = str(card_products.Passed(torch.cuda.get_device_name(), version))
    return found


def _by_liger(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    loss: torch.Tensor = liger_fused_linear_cross_entropy(hidden, weight, targets, reduction="sum")
    return loss


def optimizers(setting: Setting) -> dict[str, Any]:
    """Every optimizer that is there: it learns, and how many bytes of state it keeps for a parameter."""
    from benchmarks.gpu.toys import arguments, llama, losses, padded, rows
    from trainwright import Trainer
    from trainwright.errors import ConfigError

    found: dict[str, Any] = {}
    for name in ("adamw_torch_fused", "adamw_bf16", "muon", "adafactor", "adamw_bnb_8bit", "adamw_torch_8bit"):
        model = llama(setting).to(torch.bfloat16 if name == "adamw_bf16" else torch.float32)
        try:
            args = arguments(setting, name, optim=name, max_steps=12, learning_rate=3e-3)
            trainer = Trainer(model, args, train_dataset=rows(setting, 4), data_collator=padded)
            trainer.train()
        except (ConfigError, ImportError) as error:
            found[name] = f"left out: {str(error).splitlines()[0].partition(' Known: ')[0]}"
            continue
        first, *_, last = losses(trainer)
        expect(last < first, f"{name}: the loss went from {first:.3f} to {last:.3f}")
        state = trainer.optimizer.state.values()
        size = sum(t.numel() * t.element_size() for one in state for t in one.values() if isinstance(t, torch.Tensor))
        per_weight = size / sum(p.numel() for p in model.parameters())
        found[name] = f"loss {first:.3f} to {last:.3f}, {per_weight:.2f} bytes of state a weight"
    return found
