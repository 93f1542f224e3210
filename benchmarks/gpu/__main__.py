"""Run the stages one after another: `python -m benchmarks.gpu [--device cpu] [--tiny] [--page FILE] [STAGE...]`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.gpu import page
from benchmarks.gpu.stages import STAGES, Stage

ROOT = Path(__file__).parent.parent.parent
_RESULT = "result "


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to see that every stage runs")
    parser.add_argument("--page", type=Path, help="docs/gpu.md on a card, else gpu.md beside the results")
    parser.add_argument("--results", type=Path, default=ROOT / ".gpu", help="folder of results.jsonl")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(stage.name for stage in STAGES))
    args = parser.parse_args(words)
    unknown = set(args.stages) - {stage.name for stage in STAGES}
    if unknown:
        parser.error(f"no stage is called {', '.join(sorted(unknown))}")
    return args


def machine(device: str) -> str:
    """Return what the stages ran on, in words."""
    import torch
    import transformers

    card = torch.cuda.get_device_name() if device == "cuda" else "no GPU, a CPU at toy size: nothing here is a figure"
    many = f" × {torch.cuda.device_count()}" if device == "cuda" else ""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    return f"{card}{many}; {versions}; {time.strftime('%Y-%m-%d')}"


def earlier(journal: Path, about: str) -> dict[str, dict[str, Any]]:
    """Return the last result of every stage that has run on this machine, so that one may be run again by itself."""
    if not journal.exists():
        return {}
    told = [json.loads(line) for line in journal.read_text().splitlines()]
    return {one["stage"]: one for one in told if one["machine"] == about}


def run(stage: Stage, args: argparse.Namespace) -> dict[str, Any]:
    """Run a stage in a process of its own; return outcome, what it found, and its seconds."""
    place = Path(tempfile.mkdtemp(prefix=f"gpu-{stage.name}-"))
    words = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--one",
        "--device",
        args.device,
        *(["--tiny"] if args.tiny else []),
    ]
    start, log = time.perf_counter(), args.results / f"{stage.name}.log"
    environment = {**os.environ, "TRAINWRIGHT_JOBS": "off", "PYTHONPATH": os.pathsep.join(
        [str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}  # fmt: skip
    with log.open("w") as file:
        child = subprocess.Popen([*words, stage.name], cwd=place, env=environment, stdout=file, stderr=file,
                                 start_new_session=True)  # fmt: skip
        try:
            child.wait(stage.seconds)
            outcome = "passed" if child.returncode == 0 else f"ended with status {child.returncode}"
        except subprocess.TimeoutExpired:
            outcome = f"cut off after {stage.seconds} seconds"
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            shutil.rmtree(place, ignore_errors=True)
    told = next((one for one in reversed(log.read_text().splitlines()) if one.startswith(_RESULT)), None)
    found = json.loads(told.removeprefix(_RESULT)) if told is not None else {}
    outcome = found.get("wrong") or outcome
    return {"stage": stage.name, "outcome": outcome, "found": found.get("found", {}),
            "seconds": round(time.perf_counter() - start, 1)}  # fmt: skip


def one(args: argparse.Namespace) -> int:
    """Be the process of a stage: say what it found in a line."""
    from benchmarks.gpu.toys import Setting

    stage = next(stage for stage in STAGES if stage.name == args.stages[0])
    try:
        found = {"found": stage.function(Setting(Path.cwd(), args.device, args.tiny))}
    except Exception as error:
        traceback.print_exc()
        found = {"wrong": f"{type(error).__name__}: {error}"}
    print(f"{_RESULT}{json.dumps(found)}", flush=True)
    return 1 if "wrong" in found else 0


def main() -> int:
    """Run all stages, or those named; return 1 where any did not pass."""
    args = parsed()
    if args.one:
        return one(args)
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device here. To see that the stages run: --device cpu --tiny.", file=sys.stderr)
        return 2
    args.results.mkdir(parents=True, exist_ok=True)
    written = args.page or (ROOT / "docs" / "gpu.md" if args.device == "cuda" else args.results / "gpu.md")
    about, journal = machine(args.device), args.results / "results.jsonl"
    results, here = earlier(journal, about), []
    with journal.open("a") as file:
        for stage in STAGES:
            if args.stages and stage.name not in args.stages:
                continue
            results[stage.name] = result = run(stage, args)
            file.write(json.dumps({"machine": about, **result}) + "\n")
            file.flush()
            here.append(result)
            page.write(written, about, results)
            print(f"{stage.name}: {result['outcome'].splitlines()[0]} ({result['seconds']} s)", flush=True)
            for name, value in result["found"].items():
                print(f"    {name}: {value}", flush=True)
    print(f"The page: {written}")
    return 0 if all(result["outcome"] == "passed" for result in here) else 1


if __name__ == "__main__":
    sys.exit(main())
