"""Figures: pretraining of a dense model, fine-tuning, preferences, and how long a save holds training up."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from benchmarks.gpu.toys import Setting, arguments, expect, packed, padded, rows, sizes

_STEPS, _WARM_UP = 10, 3


def _dense(setting: Setting, length: int) -> Any:
    """Return a Llama of 1.1 billion parameters with its output layer, in bfloat16 on a card."""
    from transformers import LlamaConfig, LlamaForCausalLM

    real = {
        "vocab_size": 32_768, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
        "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": length, "use_cache": False,
    }  # fmt: skip
    torch.manual_seed(0)
    config = LlamaConfig(**setting.pick(real, sizes(setting) | {"max_position_embeddings": length}))
    kind = torch.bfloat16 if setting.on_card else torch.float32
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        with torch.device(setting.device):
            return LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(before)


class _Clock:
    """Notes when steps end; the device has done them when it is read."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.ends = setting, []

    def tick(self) -> None:
        if self.setting.on_card:
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def callback(self, kind: Any) -> Any:
        clock = self

        class Ticking(kind):  # type: ignore[misc, valid-type]
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step in (_WARM_UP, _STEPS):
                    clock.tick()

        return Ticking()

    @property
    def seconds(self) -> float:
        """Of a counted step."""
        return (self.ends[-1] - self.ends[0]) / (_STEPS - _WARM_UP)


def _left_out(*packages: str) -> str | None:
    """Return what is told of a way that needs packages, where one of them is not installed."""
    return next((f"left out: {one} is not installed" for one in packages if find_spec(one) is None), None)


def _by_library(name: str, setting: Setting, model: Any, data: Any, collator: Any, **changes: Any) -> float:
    import importlib

    library, clock = importlib.import_module(name), _Clock(setting)
    values = vars(arguments(setting, name, max_steps=_STEPS, logging_steps=_STEPS, **changes))
    wanted = ("max_steps", "logging_steps", "save_strategy", "learning_rate", "report_to", "disable_tqdm", "use_cpu",
              "per_device_train_batch_size", "train_sampling_strategy")  # fmt: skip
    args = library.TrainingArguments(str(setting.place / name), **{one: values[one] for one in wanted})
    callbacks = [clock.callback(library.TrainerCallback)]
    library.Trainer(model, args, train_dataset=data, data_collator=collator, callbacks=callbacks).train()
    return clock.seconds


def _by_hand(setting: Setting, model: Any, data: Any, collator: Any, batch: int) -> float:
    clock = _Clock(setting)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    for step in range(1, _STEPS + 1):
        rows_of_step = [data[(step * batch + place) % len(data)] for place in range(batch)]
        inputs = {name: value.to(setting.device, non_blocking=True) for name, value in collator(rows_of_step).items()}
        model(**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step in (_WARM_UP, _STEPS):
            clock.tick()
    return clock.seconds


def _whole(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    ids = torch.tensor([row["input_ids"] for row in batch])
    return {"input_ids": ids, "labels": ids.clone()}


def dense(setting: Setting) -> dict[str, Any]:
    """Pretraining of 1.1 billion parameters in bfloat16: tokens per second and MFU, beside transformers and by hand."""
    from trainwright.models.operations import operations_of
    from trainwright.parallel.throughput import peak_operations

    found: dict[str, Any] = {}
    peak = peak_operations(torch.device(setting.device), torch.bfloat16)
    for length, batch in setting.pick(((2048, 8), (8192, 2)), ((32, 2),)):
        generator = torch.Generator().manual_seed(0)
        vocabulary = setting.pick(32_768, sizes(setting)["vocab_size"])
        data = [{"input_ids": torch.randint(3, vocabulary, (length,), generator=generator).tolist()} for _ in range(64)]
        ways: dict[str, Callable[[Any], float]] = {
            "trainwright": lambda model: _by_library("trainwright", setting, model, data, _whole, per_device_train_batch_size=batch),  # noqa: B023, E501
            "by hand": lambda model: _by_hand(setting, model, data, _whole, batch),  # noqa: B023
            "transformers": lambda model: _by_library("transformers", setting, model, data, _whole, per_device_train_batch_size=batch),  # noqa: B023, E501
        }  # fmt: skip
        for name, way in ways.items():
            if name == "transformers" and (reason := _left_out("accelerate")):
                found[f"{length} tokens, {name}"] = reason
                continue
            model = _dense(setting, length)
            work = operations_of(model).training([length] * batch)
            try:
                seconds = way(model)
            except torch.OutOfMemoryError:
                found[f"{length} tokens, {name}"] = "out of memory"
                continue
            finally:
                del model
                if setting.on_card:
                    torch.cuda.empty_cache()
            share = f", MFU {work / seconds / peak:.1%}" if peak else ""
            found[f"{length} tokens, {name}"] = f"{length * batch / seconds:,.0f} tokens/s{share}"
    return found


def tuning(setting: Setting) -> dict[str, Any]:
    """Fine-tuning on rows of different lengths: real tokens a second, padded and packed, beside others."""
    data = rows(setting, setting.pick(320, 80))
    batch = setting.pick(16, 4)
    counted = sum(len(row["input_ids"]) for row in data[_WARM_UP * batch : _STEPS * batch])
    found: dict[str, Any] = {}

    def note(name: str, seconds: float) -> None:
        found[name] = f"{counted / (seconds * (_STEPS - _WARM_UP)):,.0f} tokens/s"

    for library, packages in (("trainwright", ()), ("transformers", ("accelerate",))):
        if reason := _left_out(*packages):
            found[library] = reason
            continue
        changes = {"per_device_train_batch_size": batch}
        note(library, _by_library(library, setting, _dense(setting, 512), data, padded, **changes))
    note("trainwright, packed", _by_library(
        "trainwright", setting, _dense(setting, 512), data, packed, per_device_train_batch_size=batch))  # fmt: skip
    if reason := _left_out("trl", "datasets"):
        return found | {"TRL": reason}
    note("TRL", _by_trl(setting, data, batch))
    return found


def _by_trl(setting: Setting, data: Any, batch: int) -> float:
    import datasets
    import trl
    from transformers import AutoTokenizer, TrainerCallback

    from benchmarks.language import write_tokenizer

    vocabulary = setting.pick(32_768, sizes(setting)["vocab_size"])
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(setting.place / "tokenizer", vocabulary))
    clock = _Clock(setting)
    args = trl.SFTConfig(
        str(setting.place / "trl"), max_steps=_STEPS, logging_steps=_STEPS, save_strategy="no", report_to="none",
        per_device_train_batch_size=batch, disable_tqdm=True, use_cpu=not setting.on_card, bf16=setting.on_card,
        gradient_checkpointing=False, train_sampling_strategy="sequential",
        use_liger_kernel=setting.on_card and find_spec("liger_kernel") is not None,
    )  # fmt: skip
    table = datasets.Dataset.from_list(data)
    model = _dense(setting, 512)
    trl.SFTTrainer(
        model, args, train_dataset=table, processing_class=tokenizer, callbacks=[clock.callback(TrainerCallback)]
    ).train()
    return clock.seconds


def preferences(setting: Setting) -> dict[str, Any]:
    """DPO: pairs per second with a reference model of the same size."""
    from benchmarks.gpu.numbers import _pairs
    from trainwright import Trainer, TrainerCallback

    given = _pairs(setting)
    parts = {name: given.pop(name) for name in ("train_dataset", "data_collator", "objective")}
    parts["objective"].reference = _dense(setting, 512).requires_grad_(False).eval()
    clock, batch = _Clock(setting), setting.pick(8, 2)
    changes = {"max_steps": _STEPS, "logging_steps": _STEPS, "per_device_train_batch_size": batch, **given}
    args = arguments(setting, **changes)
    Trainer(_dense(setting, 512), args, callbacks=[clock.callback(TrainerCallback)], **parts).train()
    return {"trainwright": f"{batch / clock.seconds:.2f} pairs/s"}


def stall(setting: Setting) -> dict[str, Any]:
    """How long training stands still for a save of 8 GB that is written in the background."""
    from torch import nn

    from trainwright import Trainer, TrainerCallback

    width, layers = setting.pick((8192, 10), (64, 2))  # with AdamW's two moments, 12 bytes a weight: 8.05 GB

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": self.layers(x).square().mean()}

    begins: dict[int, float] = {}
    ends: dict[int, float] = {}

    class Times(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            begins[state.global_step] = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if setting.on_card:
                torch.cuda.synchronize()
            ends[state.global_step] = time.perf_counter()

    every, steps = setting.pick((30, 75), (4, 10))
    args = arguments(setting, max_steps=steps, save_strategy="steps", save_steps=every, save_total_limit=1,
                     logging_steps=steps)  # fmt: skip
    Trainer(Wide(), args, train_dataset=[{"x": torch.randn(width)} for _ in range(64)], callbacks=[Times()]).train()
    gaps = {step: begins[step] - ends[step] for step in begins if step in ends}
    usual = statistics.median(gap for step, gap in gaps.items() if step % every)
    stalls = [gaps[step] - usual for step in gaps if step % every == 0]
    expect(bool(stalls), "no save was seen")
    size = 12 * layers * (width**2 + width) / 1e9
    return {"checkpoint": f"{size:.2f} GB", "stall": ", ".join(f"{one:.3f} s" for one in stalls)}
