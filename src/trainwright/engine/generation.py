"""Evaluation by generation: what the model writes for every row, and whether it is the reference.

In greedy decoding a row is written exactly if every argmax under the reference (teacher forcing) is right, given the
same numbers. So one forward pass proves the right rows, and only the others are generated.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainwright.batch import IGNORED
from trainwright.data.rows import Repeat
from trainwright.engine.meters import Records
from trainwright.engine.passes import batches_of, evaluating
from trainwright.errors import ConfigError
from trainwright.models.inspect import limits

if TYPE_CHECKING:
    from trainwright.engine.trainer import Trainer

logger = logging.getLogger("trainwright")
VERIFY = ("all", "failures", "none")
_BUCKETS = (4, 8, 16, 32, 64, 128)  # tokens of a reference
Checker = Callable[[str, str, str], bool]


@dataclass
class Generation:
    """How an evaluation generates.

    Attributes:
        max_length: tokens that are generated at most.
        num_beams: 1 for greedy decoding.
        verify: which rows are really generated: all, the failures of teacher forcing, or none.
        checker: `f(problem, reference, generated)` tells whether an answer is right that is not the same text.
        worked: whether an evaluation of this run has succeeded; only then is a later failure passed over.
        failed: whether such a failure was logged already.
    """

    max_length: int = 512
    num_beams: int = 1
    verify: str = "failures"
    checker: Checker | None = None
    worked: bool = field(default=False, init=False)
    failed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.verify not in VERIFY:
            raise ConfigError(f"verify_generation '{self.verify}' is not known; known: {', '.join(VERIFY)}.")


@dataclass
class Row:
    """One row of an evaluation.

    Attributes:
        place: its number in the evaluation set.
        given: tokens that the model is given: the encoder's input, or the prompt.
        target: the reference's tokens.
        argmax: what teacher forcing predicts in their places.
        written: what was generated; None until then.
    """

    place: int
    given: list[int]
    target: list[int]
    argmax: list[int]
    written: list[int] | None = None

    @property
    def proven(self) -> bool:
        """Whether teacher forcing alone shows that greedy decoding writes the reference."""
        return self.argmax == self.target


def evaluate(trainer: Trainer, dataset: Any, prefix: str, settings: Generation) -> dict[str, float]:
    """Return the metrics of an evaluation by generation; once it has succeeded, a failure is logged and passed over."""
    try:
        found = success(trainer, dataset, prefix, settings, trainer.state.global_step)
    except Exception:
        if not settings.worked:
            raise
        if not settings.failed:
            logger.exception("Evaluation by generation failed; training goes on.")
        settings.failed = True
        return {f"{prefix}_generation_error": 1.0}
    settings.worked = True
    return found


def evaluate_and_save_generation(trainer: Trainer, max_length: int = 512, step: int | None = None) -> float:
    """Generate for the evaluation set, save what was written, and return the share of exact matches.

    Raises:
        ConfigError: there is no evaluation set.
    """
    if trainer.eval_dataset is None:
        raise ConfigError("Evaluation by generation needs eval_dataset=.")
    base = trainer.generation or Generation()
    settings = Generation(max_length, base.num_beams, base.verify, base.checker)
    number = trainer.state.global_step if step is None else step
    return success(trainer, None, "eval", settings, number)["eval_generation_success_rate"]


def success(trainer: Trainer, dataset: Any, prefix: str, settings: Generation, step: int) -> dict[str, float]:
    """Generate, write `eval_results/step_<step>.json`, and return the metrics."""
    with evaluating(trainer, Records()) as model, torch.no_grad(), trainer.compute_loss_context_manager():
        rows = list(_forced(trainer, model, dataset))
        open_rows = [row for row in rows if settings.verify == "all" or settings.num_beams > 1 or not row.proven]
        if settings.verify != "none":
            _generate(trainer, model, open_rows, settings)
    results = [_result(trainer, row, settings.checker) for row in rows]
    results = [one for rank in trainer.strategy.gather(results) for one in rank]
    results.sort(key=lambda one: one["row"])
    name = prefix.removeprefix("eval").strip("_")
    folder = trainer.run_folder / "eval_results" / name if name else trainer.run_folder / "eval_results"
    trainer.strategy.on_main(lambda: _write(folder / f"step_{step}.json", results))
    return _metrics(results, prefix, step)


def _forced(trainer: Trainer, model: Any, dataset: Any) -> Iterator[Row]:
    """Yield this rank's rows, with what the model predicts under the reference."""
    world, number = trainer.strategy.world, 0
    with closing(batches_of(trainer, trainer.get_eval_dataloader(dataset))) as batches:
        for batch in batches:
            if isinstance(batch, Repeat):
                continue
            size = trainer.args.eval_batch_size
            first = (number * world.size + world.rank) * size
            number += 1
            yield from _rows(model, trainer.strategy.to_device(batch), first)


def _rows(model: Any, batch: dict[str, Any], first: int) -> Iterator[Row]:
    """Yield the rows of a batch."""
    shifted = not model.config.is_encoder_decoder
    labels = batch["labels"]
    argmax = model(**{name: value for name, value in batch.items() if name != "labels"}).logits.argmax(-1)
    if shifted:
        labels, argmax = labels[:, 1:], argmax[:, :-1]
    wanted = labels != IGNORED
    mask = batch["attention_mask"].bool()
    for i in range(len(labels)):
        given = batch["input_ids"][i][mask[i]]
        if shifted:
            given = batch["input_ids"][i][: int(wanted[i].nonzero()[0]) + 1]
        target, predicted = labels[i][wanted[i]].tolist(), argmax[i][wanted[i]].tolist()
        yield Row(first + i, given.tolist(), target, predicted)


def _generate(trainer: Trainer, model: Any, rows: list[Row], settings: Generation) -> None:
    """Generate for some rows, those of similar length together, and note what was written."""
    rows = sorted(rows, key=lambda row: len(row.given))
    size, pad = trainer.args.eval_batch_size, trainer.processing_class.pad_token_id
    encoder = model.config.is_encoder_decoder
    positions = limits(model).get("positions", settings.max_length + max((len(row.given) for row in rows), default=0))
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        width = max(len(row.given) for row in some)
        ids = torch.full((len(some), width), pad)
        mask = torch.zeros(len(some), width, dtype=torch.int64)
        for number, row in enumerate(some):
            place = (
                slice(0, len(row.given)) if encoder else slice(width - len(row.given), width)
            )  # prompts end together
            ids[number, place] = torch.tensor(row.given)
            mask[number, place] = 1
        device = trainer.strategy.device
        most = min(settings.max_length, positions if encoder else positions - width)
        length = {"max_length": most} if encoder else {"max_new_tokens": most}
        made = model.generate(
            ids.to(device), attention_mask=mask.to(device), num_beams=settings.num_beams, do_sample=False, **length
        )
        for row, written in zip(some, made[:, 1 if encoder else width :].tolist(), strict=True):
            row.written = written


def _result(trainer: Trainer, row: Row, checker: Checker | None) -> dict[str, Any]:
    """Return what is saved of a row."""

    def text(ids: list[int]) -> str:
        return trainer.processing_class.decode(ids, skip_special_tokens=True).strip()

    problem, reference = text(row.given), text(row.target)
    generated = text(row.argmax if row.written is None else row.written)
    result = {
        "row": row.place,
        "input": problem,
        "generated": generated,
        "reference": reference,
        "correct": generated == reference,
        "length": len(row.target),
    }
    if checker is not None:
        result["algebraically_correct"] = generated == reference or bool(checker(problem, reference, generated))
    return result


def _metrics(results: list[dict[str, Any]], prefix: str, step: int) -> dict[str, float]:
    """Return the shares of right rows: in all, by algebra, and by length of the reference."""
    found = {f"{prefix}_generation_success_rate": _share(results, "correct"), f"{prefix}_generation_step": step}
    if results and "algebraically_correct" in results[0]:
        found[f"{prefix}_generation_algebra_rate"] = _share(results, "algebraically_correct")
    least = 0
    for most in _BUCKETS:
        part = [one for one in results if least < one["length"] <= most]
        if part and len(part) < len(results):
            found[f"{prefix}_generation_success_rate_to_{most}_tokens"] = _share(part, "correct")
        least = most
    return found


def _share(results: list[dict[str, Any]], name: str) -> float:
    return sum(one[name] for one in results) / max(len(results), 1)


def _write(path: Path, results: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
