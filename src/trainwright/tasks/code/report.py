"""What is shown while a code model learns: bits per byte against gzip and xz, what it writes, a curve at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainwright.callbacks.progress import ProgressCallback
from trainwright.state import TrainerControl, TrainerState
from trainwright.tasks.code import twice
from trainwright.tasks.code.picture import draw
from trainwright.tasks.code.samples import is_function, signatures, write_functions
from trainwright.tasks.code.tokens import bits_per_byte
from trainwright.tasks.code.yardsticks import yardsticks

SAMPLES = 40
SAMPLES_FILE = "samples.py.txt"
_METRIC = "eval_bits_per_byte"
_SHOWN = 3


class CodeReport(ProgressCallback):
    """Bar, samples and curve of a code model; the numbers are in the run's log history too.

    Args:
        held_out: the functions that every evaluation measures, from which the signatures come too.
        tokenizer: of the model.
        tokens: how many tokens they are.
    """

    def __init__(self, held_out: Sequence[str], tokenizer: Any, tokens: int) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.prompts = signatures(held_out, SAMPLES)
        self.tokens = tokens
        whole = "\n\n".join(held_out)
        self.text_bytes = len(whole.encode())
        self.yardsticks = yardsticks(whole)
        self.losses: twice.Losses | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Say what is to be beaten, and open the bar on a terminal."""
        if state.is_world_process_zero:
            self.losses = twice.Losses(Path(args.output_dir))
            print(f"To beat, in bits per byte of files never seen: {self._targets()}.", flush=True)
        super().on_train_begin(args, state, control, **kwargs)

    def _targets(self) -> str:
        return ", ".join(f"{name} {value:.2f}" for name, value in self.yardsticks.items())

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar; the last step is evaluated whatever `eval_steps` is."""
        super().on_step_end(args, state, control, **kwargs)
        if state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the loss; the ordinary numbers are left to the log history."""
        if self.losses is not None and "loss" in kwargs["logs"]:
            self.losses.add(state.global_step, kwargs["logs"]["loss"])

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Turn the loss into bits per byte, and show the beginning of what the model writes."""
        metrics = kwargs["metrics"]
        bits = bits_per_byte(metrics["eval_loss"], self.tokens, self.text_bytes)
        metrics[_METRIC] = state.log_history[-1][_METRIC] = bits
        super().on_evaluate(args, state, control, **kwargs)
        if not state.is_world_process_zero:
            return
        written = write_functions(kwargs["model"], self.tokenizer, self.prompts[:1], args.seed)[0]
        sample = " ⏎ ".join(written.splitlines()[:3])[:90]
        self.say(f"step {state.step_of('/')}  {bits:.3f} bits per byte  it writes: {sample}")
        if self.bar is not None:
            self.bar.update(self.training, description=f"{bits:.3f} bits per byte")

    def points(self, args: Any, state: TrainerState) -> tuple[list[Any], list[tuple[int, float]], str]:
        """Return what the curve shows: the evaluations, each in bits per byte."""
        return [], evaluations(state), f" ● bits per byte ({self._targets()}) "

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """At the end of the run: functions, how steps done twice compare, the curve, and what to try next."""
        super().on_train_end(args, state, control, **kwargs)
        if self.losses is not None:
            self.losses.close()
        if state.global_step < state.max_steps or not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        samples = write_functions(kwargs["model"], self.tokenizer, self.prompts, args.seed)
        good = [text for text in samples if is_function(text)]
        (folder / SAMPLES_FILE).write_text("\n\n\n".join(samples) + "\n", encoding="utf-8")
        print("\n".join(self._end(folder, evaluations(state), len(samples), good)), flush=True)

    def _end(self, folder: Path, points: list[tuple[int, float]], asked: int, good: list[str]) -> list[str]:
        """Draw the curve, and return what is said at the end, as lines."""
        final, again = points[-1][1], twice.done_twice(folder)
        picture = draw(folder / "curve.png", points, self.yardsticks, max(again, default=None))
        place = f"{folder / SAMPLES_FILE}" + (". Some of them:" if good else "")
        return [
            f"{final:.3f} bits per byte of files never seen, {'fewer' if final < self.yardsticks['xz'] else 'more'} "
            f"than xz ({self._targets()}; these see only the held-out text, the model has seen other files).",
            f"Given the first lines of {asked} functions in those files, it wrote {len(good)} that Python accepts and "
            f"that do something: {place}",
            *(f"\n{text}" for text in _some(good)),
            "",
            *([twice.verdict(again)] if again else []),
            f"Curve: {picture}. Model, tokenizer and checkpoints: {folder}/",
            "Next: change one number, such as trainwright demo training.output_dir=runs/demo-2 "
            "training.learning_rate=0.003",
        ]


def evaluations(state: TrainerState) -> list[tuple[int, float]]:
    """Return (step, bits per byte) of all evaluations."""
    return [(entry["step"], entry[_METRIC]) for entry in state.log_history if _METRIC in entry]


def _some(good: list[str]) -> list[str]:
    """Return a few functions to look at: the first ones of more than a line, none of them long."""
    readable = [text for text in good if 3 <= text.count("\n") + 1 <= 12]
    return (readable or good)[:_SHOWN]
