"""What is shown while a code model learns: bits per byte against gzip and xz, samples, and a picture at the end."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import torch

from trainwright.callbacks.progress import ProgressCallback
from trainwright.state import TrainerControl, TrainerState
from trainwright.tasks.code.picture import draw
from trainwright.tasks.code.tokens import bits_per_byte

PROMPTS = ("def ", "import ", "class ", "for ", "if ")
SAMPLES = 40
_SAMPLE_TOKENS = 64


class CodeReport(ProgressCallback):
    """Bar, samples and picture of a code model; the numbers are in the run's log history too."""

    def __init__(self, yardsticks: dict[str, float], tokens: int, text_bytes: int, held_out: Any) -> None:
        super().__init__()
        self.yardsticks = yardsticks
        self.tokens = tokens
        self.text_bytes = text_bytes
        self.held_out = held_out
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Say what is to be beaten, and open the bar on a terminal."""
        if state.is_world_process_zero:
            print(f"To beat, in bits per byte of files never seen: {self._targets()}.", flush=True)
        super().on_train_begin(args, state, control, **kwargs)

    def _targets(self) -> str:
        return ", ".join(f"{name} {value:.2f}" for name, value in self.yardsticks.items())

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Leave the ordinary numbers to the log history."""

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Turn the loss into bits per byte, and show a sample of what the model writes."""
        super().on_evaluate(args, state, control, **kwargs)
        metrics = kwargs["metrics"]
        bits = bits_per_byte(metrics["eval_loss"], self.tokens, self.text_bytes)
        metrics["eval_bits_per_byte"] = state.log_history[-1]["eval_bits_per_byte"] = bits
        if not state.is_world_process_zero:
            return
        text = f"{bits:.2f} bits per byte ({self._targets()})"
        sample = generate(kwargs["model"], self.trainer.processing_class, ["def "], args.seed)[0].splitlines()
        self.say(f"step {state.global_step}/{state.max_steps}  {text}  it writes: {' ⏎ '.join(sample[:3])[:90]}")
        if self.bar is not None:
            self.bar.update(self.training, description=text)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """At the end of the run: the final number over all held-out text, samples, picture, and what to try next."""
        super().on_train_end(args, state, control, **kwargs)
        if state.global_step < state.max_steps or not state.is_world_process_zero:
            return
        model, tokenizer, folder = kwargs["model"], self.trainer.processing_class, Path(args.output_dir)
        loader = self.trainer.get_eval_dataloader(self.held_out)
        output = self.trainer.evaluation_loop(loader, "all held-out files", prediction_loss_only=True)
        final = bits_per_byte(output.metrics["eval_loss"], self.tokens, self.text_bytes)
        prompts = [PROMPTS[number % len(PROMPTS)] for number in range(SAMPLES)]
        samples = generate(model, tokenizer, prompts, args.seed)
        accepted = sum(map(parses, samples))
        (folder / "samples.py.txt").write_text("\n\n# ----\n".join(samples), encoding="utf-8")
        state.log_history.append({"step": state.global_step, "final_bits_per_byte": final, "accepted": accepted})
        self.trainer.save_state()
        picture = draw(folder / "curve.png", state.log_history, final, self.yardsticks)
        verdict = "fewer than xz" if final < self.yardsticks["xz"] else "more than xz"
        print(
            f"{final:.3f} bits per byte over all held-out files, {verdict} ({self._targets()}; the compressors see "
            f"only the held-out text, the model has seen other files).\n"
            f"{accepted} of {SAMPLES} samples are accepted by ast.parse: {folder}/samples.py.txt\n"
            f"Curve: {picture}. Model, tokenizer and checkpoints: {folder}/\n"
            "Next: change one number, such as trainwright demo training.output_dir=runs/demo-2 "
            "training.learning_rate=0.003",
            flush=True,
        )


def generate(model: Any, tokenizer: Any, prompts: list[str], seed: int) -> list[str]:
    """Return a continuation of every prompt, up to its last whole line; the global random streams are left alone."""
    training = model.training
    model.eval()
    written = []
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for prompt in dict.fromkeys(prompts):
            count = prompts.count(prompt)
            ids = torch.tensor([tokenizer(prompt)["input_ids"]] * count, device=model.device)
            made = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=0.7,
                max_new_tokens=_SAMPLE_TOKENS,
                pad_token_id=tokenizer.pad_token_id,
            )
            written += tokenizer.batch_decode(made, skip_special_tokens=True)
    model.train(training)
    return [text[: text.rfind("\n") + 1] or text for text in written]


def parses(text: str) -> bool:
    """Whether Python accepts a text as a program."""
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return bool(text.strip())
