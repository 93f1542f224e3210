"""Journals of jobs such as people have, for what is seen on the page: runs of a sweep, of algebra, one that failed."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path

LONG_NUMBER = 584_834_482_176
CHAT = "{% for one in messages %}{{ one.role }} {{ one.content }} . {% endfor %}"
LEARNING_RATES = (3e-5, 1e-4, 3e-4, 1e-3)
BATCHES = (8, 16)


def tell(home: Path) -> None:
    """Write the journals of twelve jobs, and what two of them have in their folders."""
    for place, (rate, batch) in enumerate((rate, batch) for batch in BATCHES for rate in LEARNING_RATES):
        _tuning(home, f"sweep-{place}", 1_790_000_000 + 700 * place, rate, batch)
    _algebra(home)
    _interrupted(home)
    _failed(home)
    _policy(home)


def write_model_and_rows(folder: Path) -> None:
    """Write what the recipe sft.yaml looks for: a tiny model, and rows that it learns by heart."""
    from tests import tiny_language as tiny

    tiny.new_model(initializer_range=0.1).save_pretrained(folder / "my-model")
    tokenizer = tiny.new_tokenizer()
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder / "my-model")
    said = {"where is the cat": "on the mat", "where is the ball": "in the house"}
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked, answer in said.items()
    ]
    tiny.write_rows(folder / "train.jsonl", rows * 16)
    tiny.write_rows(folder / "validation.jsonl", rows)


def _tuning(home: Path, job: str, began: float, rate: float, batch: int) -> None:
    chance = random.Random(job)
    params = {"training.learning_rate": rate, "training.per_device_train_batch_size": batch,
              "model.model_name": "meta/base-1b", "training.max_steps": 300, "data.train": "chats.jsonl"}  # fmt: skip
    best = 1.1 + 0.12 * abs(math.log(rate / 3e-4)) + 0.02 * (batch == 8)
    records = []
    for step in range(1, 301, 3):
        loss = best + 1.6 * math.exp(-step / (30 + 4e-3 / rate)) + chance.gauss(0, 0.03)
        at = began + 2 * step
        numbers = {"train/loss": loss, "train/grad_norm": 0.6 + chance.random() / 3,
                   "train/learning_rate": rate * (300 - step) / 300, "train/epoch": step / 100,
                   "train/num_input_tokens_seen": 1024 * batch * step}  # fmt: skip
        numbers |= {"system/cpu_percent": 60 + 20 * chance.random(), "system/memory_gb": 4.2 + chance.random() / 9}
        records += [_metric(at, name, value, step) for name, value in numbers.items()]
        if step % 30 == 1:
            records.append(_metric(at, "eval/loss", loss + 0.1, step))
    _journal(home, job, began, f"tune lr={rate:g}", "lr-sweep", params, records, 300)


def _algebra(home: Path) -> None:
    folder, records, chance = home / "runs" / "factor", [], random.Random(1)
    for step in range(1, 301):
        at = 1_790_010_000 + step
        records.append(_metric(at, "train/loss", 2 * math.exp(-step / 80) + 0.1 * chance.random(), step))
        if step % 50 == 0:
            records.append(_metric(at, "eval/success_rate", 1 - math.exp(-step / 100), step))
            records.append(_metric(at, "rewards/exact/mean", 1 - math.exp(-step / 120), step))
            rows = [{"input": f"x^2 + {step + n} x", "generated": f"x (x + {step + n - (n == 2)})",
                     "reference": f"x (x + {step + n})", "correct": n != 2} for n in range(4)]  # fmt: skip
            _written(folder / "eval_results" / f"step_{step}.json", json.dumps(rows), at)
    once = {"train/total_flos": LONG_NUMBER, "train_runtime": 612.25, "train/num_parameters": 12_582_912}
    records += [_metric(1_790_010_310, name, value, 300) for name, value in once.items()]
    kept = {"k": "kept", "t": 1_790_010_000, "name": "output_dir", "value": str(folder)}
    params = {"task": "factor polynomials over the integers", "model.d_model": 256, "train.learning_rate": 5e-4,
              "train.save_dir": str(folder), "hf_token": "hf_abcdefghijk"}  # fmt: skip
    _journal(home, "algebra", 1_790_010_000, "polynomial-factorization", "algebra", params, [kept, *records], 300)


def _interrupted(home: Path) -> None:
    """A job in the folder of `_algebra`, before whose time nothing was written."""
    kept = {"k": "kept", "t": 1_790_020_000, "name": "output_dir", "value": str(home / "runs" / "factor")}
    records = [kept, *(_metric(1_790_020_000 + step, "train/loss", 1 / step, step) for step in range(1, 20))]
    end = {"k": "status", "t": 1_790_020_030, "status": "INTERRUPTED", "message": "The process was ended by SIGINT."}
    _journal(
        home, "stopped", 1_790_020_000, "polynomial-factorization-again", "algebra", {"train.seed": 2}, records, 19, end
    )


def _failed(home: Path) -> None:
    end = {"k": "status", "t": 1_790_000_500, "status": "FAILED",
           "message": "ValueError: no column 'question' in /data/a-rather-long-path/without-any-space/rows.jsonl",
           "traceback": "Traceback (most recent call last):\n  File 'train.py', line 3"}  # fmt: skip
    _journal(
        home,
        "failed",
        1_790_000_400,
        "a_very_long_name_of_a_script_without_spaces_that_goes_on",
        "default",
        {"lr": 1e-4, "system_prompt": "You are brief, and say nothing twice. " * 400},
        [],
        0,
        end,
    )


def _policy(home: Path) -> None:
    folder, records = home / "runs" / "policy", []
    _film(folder / "media" / "rollout-1000.gif", 1_790_031_000)
    for step in range(0, 1001, 20):
        at = 1_790_030_000 + step
        records += [
            _metric(at, "train/loss", math.exp(-step / 200) if step != 500 else math.nan, step),
            _metric(at, "eval/success_rate", 1 - math.exp(-step / 400), step),
        ]
    kept = {"k": "kept", "t": 1_790_030_000, "name": "output_dir", "value": str(folder)}
    records += _ranks(folder)
    params = {"policy": "diffusion", "env": "push-block", "lr": 3e-4}
    _journal(home, "policy", 1_790_030_000, "push the block", "imitation", params, [kept, *records], 1000)


def _ranks(folder: Path) -> list[dict[str, object]]:
    """Write what two processes of a run on two machines told, and return what its journal says of them."""
    hosts = ["elsewhere", "a-machine-with-a-long-name.cluster.example"]
    ranks = [{"rank": rank, "host": host, "pid": 4000 + rank, "began": 1.0,
              "output": str(folder / "logs" / str(rank) / "stderr.log")}
             for rank, host in enumerate(hosts)]  # fmt: skip
    before = "process 3999, failed after step 400: RankError: Rank 1 was killed or has left, after step 400"
    ends = [{"ended": "COMPLETE", "how": ""}, {"ended": "FAILED", "how": f"ValueError: {'row' * 30}", "before": before}]
    for rank, end in zip(ranks, ends, strict=True):
        _written(folder / "logs" / str(rank["rank"]) / "stderr.log", f"what rank {rank['rank']} said", 1_790_031_000)
        told = {**rank, "step": 1000, "rows_per_second": 1234.5678, "held": {}, **end}
        _written(folder / "ranks" / f"{rank['rank']}.json", json.dumps(told), 1_790_031_000)
    return [{"k": "kept", "t": 1_790_030_000, "name": "ranks", "value": ranks}]


def _film(path: Path, time: float) -> None:
    """Write a GIF of a block that is pushed across."""
    from PIL import Image, ImageDraw

    frames = []
    for at in range(0, 90, 6):
        frame = Image.new("RGB", (160, 90), "#f1f3f6")
        pen = ImageDraw.Draw(frame)
        pen.rectangle((120, 20, 150, 70), outline="#157347", width=2)
        pen.rectangle((20 + at, 32, 46 + at, 58), fill="#c2410c")
        pen.ellipse((2 + at, 37, 18 + at, 53), fill="#1d5fd6")
        frames.append(frame)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=80, loop=0)
    os.utime(path, (time, time))


def _metric(time: float, name: str, value: float, step: int) -> dict[str, object]:
    return {"k": "metric", "t": time, "name": name, "value": value, "step": step}


def _written(path: Path, text: str, time: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time, time))


def _journal(home: Path, job: str, began: float, name: str, experiment: str, params: dict[str, object],
             records: list[dict[str, object]], steps: int, end: dict[str, object] | None = None) -> None:  # fmt: skip
    command = ["/usr/bin/python3", "-m", "trainwright", "train", "-c", "run.yaml"]
    start = {"k": "start", "t": began, "name": name, "experiment": experiment, "params": params, "pid": 1,
             "host": "elsewhere", "cwd": str(home), "command": command}  # fmt: skip
    done = {
        "k": "progress",
        "t": began + 1,
        "progress": 100.0 if end is None else 40.0,
        "step": steps,
        "total_steps": max(steps, 300),
    }
    last = end or {"k": "status", "t": began + 2 * steps + 5, "status": "COMPLETE"}
    folder = home / "jobs" / job
    folder.mkdir(parents=True)
    (folder / "job.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [start, *records, done, last]))
