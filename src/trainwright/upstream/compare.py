"""The same file with several engines, each in a process of its own, in turns; and what came of it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from trainwright.config import methods
from trainwright.config.schema import TrainingConfig
from trainwright.errors import ConfigError

WARM = 2  # steps whose time is not counted


@dataclass
class Result:
    """What an engine did in one process.

    Attributes:
        losses: by step.
        norms: norms of the gradients, by step.
        seconds: of every step.
        tokens: input tokens that are no padding, by step.
        memory: most memory of the process, in MB (on a GPU: of the device).
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    memory: float = 0.0

    @property
    def speed(self) -> float:
        """Tokens per second over the counted steps."""
        return sum(self.tokens[WARM:]) / max(sum(self.seconds[WARM:]), 1e-9)


def stopwatch(result: Result) -> Any:
    """Return a callback of transformers' kind that fills a result; ours understands it too."""
    from transformers import TrainerCallback

    class Stopwatch(TrainerCallback):
        started = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            result.seconds.append(time.perf_counter() - self.started)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "grad_norm" in (logs or {}):
                result.losses.append(float(logs["loss"]))
                result.norms.append(float(logs["grad_norm"]))

    return Stopwatch()


class Counting:
    """A collator that counts the tokens of its batches which are no padding."""

    def __init__(self, collate: Any, result: Result) -> None:
        self.collate = collate
        self.result = result

    def __call__(self, rows: Any) -> Any:
        """Return the batch, and note its tokens."""
        batch = self.collate(rows)
        mask = batch.get("attention_mask")
        self.result.tokens.append(int(mask.sum()) if mask is not None else batch["input_ids"].numel())
        return batch


def run_one(config: Any, build: Any) -> Result:
    """Train with one engine in this process, and return what came of it."""
    result = Result()
    trainer = build(config).trainer
    trainer.data_collator = Counting(trainer.data_collator, result)
    return measure(trainer, result)


def measure(trainer: Any, result: Result) -> Result:
    """Train, ours or another library's Trainer whose collator counts for the result; return the result, filled."""
    import torch

    trainer.add_callback(stopwatch(result))
    trainer.train()
    accumulation, counted = trainer.args.gradient_accumulation_steps, result.tokens
    result.tokens = [sum(counted[i : i + accumulation]) for i in range(0, len(counted), accumulation)]
    result.tokens = result.tokens[: len(result.seconds)]
    if torch.cuda.is_available() and not trainer.args.use_cpu:
        result.memory = torch.cuda.max_memory_allocated() / 1e6
    else:
        result.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            1e6 if sys.platform == "darwin" else 1e3  # there in bytes, elsewhere in kilobytes
        )
    return result


def frozen(config: TrainingConfig, engine: str, steps: int, folder: str) -> TrainingConfig:
    """Return the configuration of one engine's run: only the steps, and with what must be the same for all."""
    params = replace(
        config.training,
        trainer_type=engine,
        max_steps=steps,
        output_dir=folder,
        logging_strategy="steps",
        logging_steps=1,
        logging_first_step=False,
        save_strategy="no",
        save_epoch=False,
        push_to_hub=False,
        save_final_model=False,
        eval_strategy="no",
        report_to="none",
        enable_wandb=False,
        enable_mlflow=False,
        enable_tensorboard=True,  # its default, so that report_to decides
        disable_tqdm=True,
        log_examples=False,
        log_model_summary=False,
    )
    return replace(config, training=params)


def not_the_same(config: TrainingConfig, engines: list[str]) -> list[str]:
    """Return what the engines cannot be made to do alike, in sentences."""
    return [sentence for one in _named(engines) for sentence in one.not_the_same(config)]


def engines_of(trainer_type: str | None) -> list[str]:
    """Return who trains a file in a comparison that names no engines: its own method, and other libraries' of the same
    settings.

    Raises:
        ConfigError: there is nobody else.
    """
    own = next(iter(methods.candidates(trainer_type)), methods.find("SFT"))
    others = [one.name for one in methods.everyone() if one.library and one.minimises is own.minimises]
    engines = list(dict.fromkeys([own.name, *others]))
    if len(engines) < 2:
        raise ConfigError(f"{own.name} stands alone: no other engine here minimises the same ({own.title}).")
    return engines


def check_comparable(engines: list[str]) -> None:
    """Raise a ConfigError where two engines do not minimise the same."""
    named = _named(engines)
    for one in named:
        if one.minimises is not named[0].minimises:
            raise ConfigError(
                f"{named[0].name} and {one.name} cannot be compared: {named[0].title} and {one.title} minimise "
                "different things, so their numbers mean nothing side by side."
            )


def _named(engines: list[str]) -> list[methods.Method]:
    """Return the methods of engines, but for those that the data decide."""
    able = [methods.candidates(name) for name in engines]
    return [one[0] for one in able if len(one) == 1]


def compare(
    file: Path, overrides: list[str], engines: list[str], steps: int, rounds: int
) -> tuple[dict[str, list[Result]], dict[str, str]]:
    """Run every engine in turns, each time in a new process; return the results by engine, and why others have none.

    Raises:
        ConfigError: all of them fail, with the end of what they said.
    """
    results: dict[str, list[Result]] = {engine: [] for engine in engines}
    failed: dict[str, str] = {}
    for number in range(rounds):
        for engine in list(results):
            print(f"round {number + 1} of {rounds}: {engine}", flush=True)
            try:
                results[engine].append(_in_a_process(file, overrides, engine, steps))
            except ConfigError as error:
                failed[engine] = str(error)
                del results[engine]
    if not results:
        raise ConfigError("\n".join(failed.values()))
    return results, failed


def _in_a_process(file: Path, overrides: list[str], engine: str, steps: int) -> Result:
    command = [sys.executable, "-m", "trainwright", "compare", str(file), "--one", engine]
    done = subprocess.run([*command, "--steps", str(steps), *overrides], capture_output=True, text=True)
    marked = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not marked:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise ConfigError(f"{engine} failed (exit code {done.returncode}):\n{said}")
    return Result(**json.loads(marked[-1]))


def table(results: dict[str, list[Result]]) -> str:
    """Return losses side by side, then speed and memory, and their ratios to the first engine."""
    engines = list(results)
    first = {engine: runs[0] for engine, runs in results.items()}
    lines = ["step  " + "  ".join(f"{engine:>22}" for engine in engines), " " * 6 + "  ".join(
        f"{'loss   grad_norm':>22}" for _ in engines)]  # fmt: skip
    for step in range(max(len(one.losses) for one in first.values())):
        cells = [
            f"{one.losses[step]:>12.6f} {one.norms[step]:>9.5f}" if step < len(one.losses) else " " * 22
            for one in first.values()
        ]
        lines.append(f"{step + 1:>4}  " + "  ".join(cells))
    speeds = {engine: median(one.speed for one in runs) for engine, runs in results.items()}
    memories = {engine: median(one.memory for one in runs) for engine, runs in results.items()}
    base = engines[0]
    lines += ["", f"{'engine':<10} {'tokens/s':>10} {'ratio':>7} {'memory MB':>10} {'ratio':>7}"]
    for engine in engines:
        lines.append(
            f"{engine:<10} {speeds[engine]:>10.0f} {speeds[engine] / speeds[base]:>7.2f} {memories[engine]:>10.0f} "
            f"{memories[engine] / memories[base]:>7.2f}"
        )
    return "\n".join(lines)


def draw(path: Path, results: dict[str, list[Result]]) -> Path:
    """Draw losses over steps and tokens per second of every engine; return the path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (engine, runs), style in zip(results.items(), ("-", "--", ":", "-.") * 3, strict=False):
        left.plot(range(1, len(runs[0].losses) + 1), runs[0].losses, style, label=engine)
    left.set(xlabel="step", ylabel="loss")
    left.legend(frameon=False)
    right.barh(list(results), [median(one.speed for one in runs) for runs in results.values()])
    right.invert_yaxis()
    right.set(xlabel="tokens per second, without padding")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    return path
