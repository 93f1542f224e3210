"""Lets every call of a save fail in turn, with the errors that disks and network folders give.

`run` builds `errno_shim.c` and starts `python -m tests.reliability.errnos SHARE` with it preloaded; SHARE is how many
of the pairs of a call and an error are tried, 1 for all of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests import ROOT
from tests.reliability import cases
from trainwright import Trainer, TrainerCallback, TrainingArguments
from trainwright.checkpoint import check, layout

KINDS = ("open", "write", "fsync", "rename", "stat")
NUMBERS = (errno.ESTALE, errno.EIO, errno.ENOSPC, errno.EACCES)


class Arm(TrainerCallback):
    """Lets a call fail from the end of step 8 on, whose save it is; one call, or all of its kind until step 10."""

    def __init__(self, shim: Any, place: Path, kind: int, nth: int, number: int, lasting: bool) -> None:
        self.shim, self.place = shim, str(place).encode()
        self.what = (kind, nth, 10**9 if lasting else nth, number)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 8:
            self.shim.arm(*self.what, self.place)
        if state.global_step == 11:
            self.shim.arm(-1, 0, 0, 0, b"")


def made(place: Path, steps: int, callbacks: Any = (), **changes: Any) -> Trainer:
    """Return a trainer that saves at steps 4, 8 and 12; its callbacks pass for ours, so saves are in the background."""
    torch.manual_seed(0)
    settings = {"per_device_train_batch_size": 4, "save_steps": 4, "save_total_limit": 3, "learning_rate": 1e-2}
    fixed = {"lr_scheduler_type": "constant", "logging_steps": 100, "use_cpu": True, "disable_tqdm": True}
    args = TrainingArguments(str(place), max_steps=steps, **{**settings, **fixed, **changes})
    return Trainer(cases.Net(), args, train_dataset=cases.rows(), callbacks=list(callbacks))


def _quietly(trainer: Trainer, **how: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train(**how)


def count(shim: Any, place: Path) -> list[int]:
    """Return how many calls of each kind the save of step 8 makes."""
    Arm.__module__ = "trainwright.tests"
    _quietly(made(place, 11, [Arm(shim, place, -1, 0, 0, False)]))
    return [shim.calls(kind) for kind in range(len(KINDS))]


def survives(shim: Any, place: Path, failing: tuple[int, int, int, bool], expected: Any) -> str | None:
    """Train with a failing call and resume; return what was not as it should be."""
    trainer = made(place, 12, [Arm(shim, place, *failing)])
    try:
        _quietly(trainer)
    except Exception as error:
        return f"training ended at step {trainer.state.global_step}: {type(error).__name__}: {error}"
    finally:
        shim.arm(-1, 0, 0, 0, b"")
    damaged = [fault for path in layout.checkpoints(place) if (fault := check.damage(path)) is not None]
    if damaged or check.newest_valid(place)[0] != place / "checkpoint-12":
        return f"damaged: {damaged}; newest: {check.newest_valid(place)[0]}"
    resumed = made(place, 16)
    _quietly(resumed, resume_from_checkpoint=True)
    same = all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), expected, strict=True))
    return None if same else "resumed, it ends elsewhere"


def main(share: float) -> bool:
    """Try a share of all pairs of calls and errors; print what came of it."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    shim, chance = ctypes.CDLL(os.environ["LD_PRELOAD"]), random.Random(0)
    shim.arm.argtypes = (ctypes.c_int, ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_char_p)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name).resolve()
        straight = made(place / "straight", 16, save_strategy="no")
        _quietly(straight)
        expected = list(straight.model.parameters())
        calls = count(shim, place / "count")
        every = [
            (kind, nth, number, lasting)
            for kind, many in enumerate(calls)
            for nth in range(1, many + 1)
            for number in NUMBERS
            for lasting in (False, True)
        ]
        chosen = chance.sample(every, max(1, int(share * len(every))))
        faults, failed = 0, 0
        for kind, nth, number, lasting in chosen:
            one = place / "run"
            said = survives(shim, one, (kind, nth, number, lasting), expected)
            failed += not (one / "checkpoint-8").exists()
            if said is not None:
                faults += 1
                how = "from there on" if lasting else "once"
                print(f"{KINDS[kind]} number {nth} fails with {errno.errorcode[number]} {how}: {said}", flush=True)
            shutil.rmtree(one, ignore_errors=True)
    told = ", ".join(f"{many} {kind}" for kind, many in zip(KINDS, calls, strict=True))
    print(
        f"A save makes {told}; {len(chosen)} of {len(every)} failures tried: {failed} saves failed, "
        f"{faults} ended a run or lost a step"
    )
    return faults == 0


def run(share: float) -> subprocess.CompletedProcess[str] | str:
    """Run `main` with the shim preloaded; return why, where it cannot be built."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        return "no C compiler, or not Linux: calls cannot be made to fail"
    with tempfile.TemporaryDirectory() as name:
        library = Path(name) / "shim.so"
        source = Path(__file__).with_name("errno_shim.c")
        built = subprocess.run(
            [compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], capture_output=True, text=True
        )
        if built.returncode:
            return f"errno_shim.c does not compile here: {built.stderr.strip().splitlines()[-1]}"
        command = [sys.executable, "-m", "tests.reliability.errnos", str(share)]
        environment = {**os.environ, "LD_PRELOAD": str(library)}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(0 if main(float(sys.argv[1])) else 1)
