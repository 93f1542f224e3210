"""The same numbers as on a CPU: losses of short runs, weights of resumed ones, steps that are left out."""

from __future__ import annotations

import copy
import logging
import shutil
from importlib.util import find_spec
from typing import Any

import torch

from benchmarks.gpu.toys import Setting, arguments, expect, llama, losses, packed, padded, rows, worst

_CLOSE = {
    "float32": 2e-4,
    "bfloat16": 3e-2,
    "float16": 1e-2,
}  # of losses; 8 and 11 bits of a number in the half formats


def _trained(setting: Setting, name: str, goes_on: bool = False, **given: Any) -> Any:
    """Return a Trainer after a short run; `given` are arguments, and parts of a Trainer by their names there."""
    from trainwright import Trainer

    parts = {"model": llama(setting), "train_dataset": rows(setting, 24), "data_collator": padded}
    parts |= {part: given.pop(part) for part in (*parts, "objective", "callbacks") if part in given}
    trainer = Trainer(args=arguments(setting, name, **given), **parts)
    trainer.train(resume_from_checkpoint=goes_on)
    return trainer


def twins(setting: Setting) -> dict[str, Any]:
    """Losses of a dozen runs on the device, beside those of the same runs on the CPU in float32."""
    host = Setting(setting.place, "cpu", setting.tiny)
    kinds: dict[str, Any] = {
        "padded": dict, "packed": lambda: {"data_collator": packed},
        "accumulated": lambda: {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 2},
        "with logits": lambda: {"use_fused_loss": False}, "recomputed": lambda: {"activation_checkpointing": True},
        "pairs": lambda: _pairs(setting),
    }  # fmt: skip
    if setting.on_card and find_spec("liger_kernel") is not None:
        kinds["Liger"] = lambda: {"use_liger_kernel": True}  # last, for what is made later has its kernels too
    found: dict[str, Any] = {}
    for kind, make in kinds.items():
        expected = losses(_trained(host, f"cpu {kind}", **({} if kind == "Liger" else make())))
        for format in _CLOSE if setting.on_card else ("float32", "bfloat16"):
            switch = {} if format == "float32" else {"bf16" if format == "bfloat16" else "fp16": True}
            off = worst(losses(_trained(setting, f"{kind} {format}", **make(), **switch)), expected)
            found[f"{kind}, {format}"] = f"{off:.1e}"
            expect(off <= _CLOSE[format], f"{kind} in {format}: losses are off by {off:.2g}, allowed {_CLOSE[format]}")
    return found


def _pairs(setting: Setting) -> dict[str, Any]:
    from trainwright.config.options import DPOOptions
    from trainwright.objectives.preference import PreferenceLoss

    both = zip(rows(setting, 24, seed=1), rows(setting, 24, seed=2), strict=True)

    def collate(batch: list[Any]) -> dict[str, torch.Tensor]:
        joined = padded([row for pair in batch for row in pair["rows"]])
        return {name: value.unflatten(0, (-1, 2)) for name, value in joined.items()}

    reference = llama(setting, seed=5).requires_grad_(False).eval()
    objective = PreferenceLoss(DPOOptions(), reference)
    return {"train_dataset": [{"rows": pair} for pair in both], "data_collator": collate, "objective": objective,
            "remove_unused_columns": False, "learning_rate": 1e-4}  # fmt: skip


def waits(setting: Setting) -> dict[str, Any]:
    """No step waits for the device between two logs: torch raises at the first that does."""
    from trainwright import TrainerCallback

    class Strict(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if setting.on_card:
                torch.cuda.set_sync_debug_mode("error" if 2 <= state.global_step < 6 else "default")

    kinds = {"padded": {}, "packed": {"data_collator": packed}, "pairs": _pairs(setting)}
    for kind, given in kinds.items():
        try:
            _trained(setting, kind, **given, logging_steps=6, callbacks=[Strict()])
        finally:
            if setting.on_card:
                torch.cuda.set_sync_debug_mode("default")
    return {"kinds": ", ".join(kinds), "watched": "by torch" if setting.on_card else "not on this device"}


def _weights(trainer: Any) -> list[torch.Tensor]:
    return [p.detach().cpu().clone() for p in trainer.model.parameters()]


def resume(setting: Setting) -> dict[str, Any]:
    """A run that was stopped and goes on ends with the same bits as one that was not.

    So it is with deterministic algorithms; without them a device's sums may differ from one run to the next, which is
    told beside it: a run that goes on differs only where one that is begun again does.
    """
    kinds: dict[str, dict[str, Any]] = {
        "float32": {}, "bfloat16": {"bf16": True}, "packed": {"data_collator": packed}, "pairs": _pairs(setting),
    }  # fmt: skip
    if setting.on_card:
        kinds["float16"] = {"fp16": True}
    found: dict[str, Any] = {}
    for kind, changes in kinds.items():
        given = {"save_strategy": "steps", "save_steps": 3, **changes}
        whole, again = (_weights(_trained(setting, f"{kind} {place}", **given)) for place in ("whole", "again"))
        repeats, same = _equal(whole, again), _equal(whole, _resumed(setting, f"{kind} whole", given))
        found[kind] = f"goes on {_words(same)}, begun again {_words(repeats)}"
        expect(same or not repeats, f"{kind}: the resumed run's weights are others, and those of a second run are not")
        exact = {**given, "full_determinism": True}
        whole = _weights(_trained(setting, f"{kind} exact", **exact))
        expect(_equal(whole, _resumed(setting, f"{kind} exact", exact)), f"{kind}, deterministic: others when resumed")
    return found | {"bitwise with full_determinism": ", ".join(kinds)}


def _words(same: bool) -> str:
    return "with the same bits" if same else "with others"


def _equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def _resumed(setting: Setting, name: str, given: dict[str, Any]) -> list[torch.Tensor]:
    """Return the weights of a run that goes on from the middle of another."""
    shutil.rmtree(setting.place / name / "checkpoint-6")
    return _weights(_trained(setting, name, **given, model=llama(setting, seed=9), goes_on=True))


def bad_step(setting: Setting) -> dict[str, Any]:
    """A step whose gradient is not finite changes nothing, and is told."""
    from trainwright import Trainer

    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("trainwright").addHandler(handler)

    class Poisoned(Trainer):
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            loss = super().training_step(model, inputs, num_items_in_batch)
            if self.state.global_step == 3:
                next(model.parameters()).grad.fill_(float("nan"))
            return loss

    for optim in ("adamw_torch_fused", "adamw_torch", "sgd"):
        args = arguments(setting, optim, optim=optim)
        trainer = Poisoned(llama(setting), args, train_dataset=rows(setting, 24), data_collator=padded)
        trainer.train()
        expect(any("Step 4 was skipped" in one for one in told), f"{optim}: the bad step was not told")
        expect(all(bool(w.isfinite().all()) for w in _weights(trainer)), f"{optim}: weights are not finite")
        told.clear()
    return {"optimizers": 3}


def out_of_memory(setting: Setting) -> dict[str, Any]:
    """Where memory runs out, micro-batches are halved, and the losses stay those of whole ones."""
    from trainwright import Trainer

    class Full(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *given: Any, **named: Any) -> Any:
            if len(inputs["input_ids"]) > 2:
                if setting.on_card:
                    torch.empty(1 << 50, dtype=torch.uint8, device="cuda")  # the allocator's own error
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().compute_loss(model, inputs, *given, **named)

    whole = _trained(setting, "whole")
    args = arguments(setting, "pieces", auto_find_batch_size=True)
    pieces = Full(copy.deepcopy(llama(setting)), args, train_dataset=rows(setting, 24), data_collator=padded)
    pieces.train()
    off = worst(losses(pieces), losses(whole))
    expect(off <= _CLOSE["float32"], f"losses in pieces are off by {off:.2g}")
    return {"off": f"{off:.1e}"}


def compiled(setting: Setting) -> dict[str, Any]:
    """A compiled model has the losses of one that is not."""
    plain = _trained(setting, "plain", use_fused_loss=False)
    backend = setting.pick("inductor", "aot_eager")  # a CPU takes minutes for its code
    fast = _trained(setting, "compiled", torch_compile_backend=backend)
    off = worst(losses(fast), losses(plain))
    expect(off <= _CLOSE["float32"], f"losses of the compiled model are off by {off:.2g}")
    return {"off": f"{off:.1e}"}
