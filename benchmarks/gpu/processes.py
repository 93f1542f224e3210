"""What takes processes of its own: a kill while a save is written, several ranks, a quantised model from a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.toys import Setting, arguments, expect, llama, losses, padded, rows, worst

_LOSSES = "losses "


def _start(setting: Setting, what: str, *launcher: str) -> subprocess.Popen[str]:
    """Start this file as a program, in the environment of the stage."""
    words = [
        *(launcher or (sys.executable,)),
        "-m",
        "benchmarks.gpu.processes",
        what,
        str(setting.place),
        setting.device,
    ]
    words += ["--tiny"] if setting.tiny else []
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _training(setting: Setting, **changes: Any) -> Any:
    from trainwright import Trainer

    name = changes.pop("name", "killed")
    usual = {"max_steps": 30, "save_strategy": "steps", "save_steps": 5, "lr_scheduler_type": "constant"}
    args = arguments(setting, name, **{**usual, **changes})
    return Trainer(llama(setting), args, train_dataset=rows(setting, 24), data_collator=padded)


def kill(setting: Setting) -> dict[str, Any]:
    """A process that is killed while it saves in the background goes on, with the losses of one that was not."""
    child = _start(setting, "train")
    folder = setting.place / "killed"
    while child.poll() is None and len(list(folder.glob("checkpoint-*"))) < 2:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    resumed = _training(setting)
    resumed.train(resume_from_checkpoint=True)
    whole = _training(setting, name="whole", save_strategy="no")
    whole.train()
    off = worst(losses(resumed), losses(whole))
    expect(off == 0, f"losses after the kill are off by {off:.2g}")
    return {"checkpoints at the kill": len(list(folder.glob("checkpoint-*"))), "losses": "bitwise"}


def ranks(setting: Setting) -> dict[str, Any]:
    """Under torchrun, one rank (two where there are two cards) has the losses of a process alone."""
    many = 2 if not setting.on_card or torch.cuda.device_count() > 1 else 1
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(many), "--master-port", "29611")
    child = _start(setting, "rank", *launcher)
    told = child.communicate()[0]
    expect(child.returncode == 0, told[-2000:])
    found = json.loads(next(line.removeprefix(_LOSSES) for line in told.splitlines() if line.startswith(_LOSSES)))
    alone = _training(setting, name="alone", save_strategy="no", max_steps=6, per_device_train_batch_size=2 * many)
    alone.train()
    off = worst(found, losses(alone))
    expect(off < 1e-4, f"losses of {many} ranks are off by {off:.2g}")
    return {"ranks": many, "backend": "nccl" if setting.on_card else "gloo", "off": f"{off:.1e}"}


def qlora(setting: Setting) -> dict[str, Any]:
    """A model of 4 bits, by bitsandbytes, with adapters: it learns, goes on with the same bits, and is merged."""
    for package in ("bitsandbytes", "peft"):
        if find_spec(package) is None:
            return {"left out": f"{package} is not installed"}
    import peft
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from trainwright import Trainer

    llama(setting).save_pretrained(setting.place / "base")
    quantised = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=setting.pick(torch.bfloat16, torch.float32)
    )

    def made(name: str) -> Any:
        base = AutoModelForCausalLM.from_pretrained(
            setting.place / "base", quantization_config=quantised, device_map={"": setting.device}
        )
        torch.manual_seed(3)
        model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        args = arguments(setting, name, save_strategy="steps", save_steps=3, learning_rate=1e-2)
        return Trainer(model, args, train_dataset=rows(setting, 4), data_collator=padded)

    whole = made("qlora")
    whole.train()
    first, *_, last = losses(whole)
    expect(last < first, f"the loss went from {first:.3f} to {last:.3f}")
    again = made("qlora")
    again.train(resume_from_checkpoint=str(setting.place / "qlora" / "checkpoint-3"))
    off = worst(losses(again), losses(whole))
    expect(off < 1e-6, f"the resumed run's losses are off by {off:.2g}")
    merged = whole.model.merge_and_unload()
    return {"loss": f"{first:.3f} to {last:.3f}", "merged": type(merged).__name__}


def main() -> None:
    """Be the process that is killed, or one of the ranks."""
    what, place, device, *rest = sys.argv[1:]
    setting = Setting(Path(place), device, bool(rest))
    if what == "train":
        _training(setting, max_steps=100_000).train()
        return
    trainer = _training(setting, save_strategy="no", max_steps=6, per_device_train_batch_size=2)
    trainer.train()
    if os.environ["RANK"] == "0":
        print(f"{_LOSSES}{json.dumps(losses(trainer))}", flush=True)


if __name__ == "__main__":
    main()
