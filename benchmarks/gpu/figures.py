"""Figures: pretraining of a dense model, fine-tuning, preferences, and how long a save holds training up."""

from __future__ import annotations

import statistics
import time
from importlib.util import find_spec
from itertools import product
from typing import Any

import torch

from benchmarks.gpu.toys import Setting, arguments, packed, padded, rows, sizes

_STEPS, _WARM_UP = 10, 3


def _dense(setting: Setting, length: int) -> Any:
    """Return a Llama of 1.3 billion parameters with its output layer, in bfloat16 on a card."""
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
              "per_device_train_batch_size", "train_sampling_strategy", *changes)  # fmt: skip
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


_WAYS: dict[str, dict[str, Any]] = {  # Liger last, for models that are made after it have its kernels too
    "trainwright": {}, "by hand": {}, "transformers": {}, "trainwright, layers compiled": {"torch_compile": "layers"},
    "trainwright, Liger": {"use_liger_kernel": True}, "transformers, Liger": {"use_liger_kernel": True},
}  # fmt: skip
_NEEDED = {"transformers": "accelerate", "Liger": "liger_kernel"}


def dense(setting: Setting) -> dict[str, Any]:
    """Pretraining of 1.3 billion parameters in bfloat16: tokens per second and MFU, beside transformers and by hand."""
    from trainwright.models.operations import operations_of
    from trainwright.models.throughput import peak_operations

    found: dict[str, Any] = {}
    peak = peak_operations(torch.device(setting.device), torch.bfloat16)
    for (name, changes), (length, batch) in product(_WAYS.items(), setting.pick(((2048, 8), (8192, 2)), ((32, 2),))):
        library, about = name.split(",")[0], f"{length} tokens, {name}"
        reason = _left_out(*(package for word, package in _NEEDED.items() if word in name))
        if reason is None and changes and not setting.on_card:
            reason = "left out: it is for a card"
        if reason is not None:
            found[about] = reason
            continue
        generator = torch.Generator().manual_seed(0)
        vocabulary = setting.pick(32_768, sizes(setting)["vocab_size"])
        data = [{"input_ids": torch.randint(3, vocabulary, (length,), generator=generator).tolist()} for _ in range(64)]
        model = _dense(setting, length)
        work = operations_of(model).training([length] * batch)
        try:
            if library == "by hand":
                seconds = _by_hand(setting, model, data, _whole, batch)
            else:
                changes = {"per_device_train_batch_size": batch, **changes}
                seconds = _by_library(library, setting, model, data, _whole, **changes)
        except torch.OutOfMemoryError:
            found[about] = "out of memory"
            continue
        finally:
            del model
            if setting.on_card:
                torch.cuda.empty_cache()
        share = f", MFU {work / seconds / peak:.1%}" if peak else ""
        found[about] = f"{length * batch / seconds:,.0f} tokens/s{share}"
    return found


def tuning(setting: Setting) -> dict[str, Any]:
    """Fine-tuning on rows of different lengths: real tokens a second, padded and packed, beside others.

    Of two runs the second counts, which finds the kernels for its lengths made.
    """
    data = rows(setting, setting.pick(320, 80), longest=setting.pick(1024, None))
    batch = setting.pick(16, 4)
    counted = sum(len(row["input_ids"]) for row in data[_WARM_UP * batch : _STEPS * batch])
    found: dict[str, Any] = {}

    def note(name: str, seconds: float) -> None:
        found[name] = f"{counted / (seconds * (_STEPS - _WARM_UP)):,.0f} tokens/s"

    ways: dict[str, tuple[Any, dict[str, Any]]] = {
        "trainwright": (padded, {}), "transformers": (padded, {}), "trainwright, packed": (packed, {}),
        "trainwright, Liger": (padded, {"use_liger_kernel": True}),
        "transformers, Liger": (padded, {"use_liger_kernel": True}),
    }  # fmt: skip
    for name, (collator, changes) in ways.items():
        reason = _left_out(*(package for word, package in _NEEDED.items() if word in name))
        if reason is not None or (changes and not setting.on_card):
            found[name] = reason or "left out: it is for a card"
            continue
        changes = {"per_device_train_batch_size": batch, **changes}
        for _ in range(2):
            note(name, _by_library(name.split(",")[0], setting, _dense(setting, 1024), data, collator, **changes))
    if reason := _left_out("trl", "datasets"):
        return found | {"TRL": reason}
    for _ in range(2):
        note("TRL, Liger" if setting.on_card else "TRL", _by_trl(setting, data, batch))
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
    model = _dense(setting, 1024)
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
    """How much later the step after a save ends, of 8 GB that are written in the background: the first, which finds
    memory for its copies, and a later one."""
    from torch import nn

    from trainwright import Trainer, TrainerCallback

    width, layers = setting.pick((8192, 10), (64, 2))  # with AdamW's two moments, 12 bytes a weight: 8.05 GB
    every, saves = 10, 2

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": self.layers(x).square().mean()}

    ends: dict[int, float] = {}

    class Times(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step = state.global_step
            if step > every and step % every == 5:  # the write of the save before, which another would wait for
                while not (setting.place / "run" / f"checkpoint-{step - 5}").exists():
                    time.sleep(0.05)
            if setting.on_card:
                torch.cuda.synchronize()
            ends[step] = time.perf_counter()

    args = arguments(setting, max_steps=saves * every + 2, save_strategy="steps", save_steps=every, save_total_limit=1,
                     logging_steps=every)  # fmt: skip
    with torch.device(setting.device):
        model = Wide()
    Trainer(model, args, train_dataset=[{"x": torch.randn(width)} for _ in range(64)], callbacks=[Times()]).train()
    took = {step: ends[step + 1] - ends[step] for step in ends if step + 1 in ends}
    usual = statistics.median(took[step] for step in took if step % every in (7, 8, 9))
    late = [took[step] - usual for step in took if step % every == 0]
    size = 12 * layers * (width**2 + width) / 1e9
    return {
        "checkpoint": f"{size:.2f} GB",
        "a step": f"{usual:.3f} s",
        "stall": ", ".join(f"{one:.3f} s" for one in late),
    }
