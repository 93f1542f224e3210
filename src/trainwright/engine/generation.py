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

import numpy as np
import torch

from trainwright.batch import IGNORED
from trainwright.data.rows import Repeat
from trainwright.engine.meters import Records
from trainwright.engine.passes import batches_of, evaluating, rows_of, together, waiting
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


class Forced:
    """The rows of an evaluation with what the model predicts under the reference, collected batch by batch."""

    def __init__(self, trainer: Trainer, order: np.ndarray | None) -> None:
        self.trainer = trainer
        self.order = order
        self.rows: list[Row] = []
        self.batches = 0

    def add(self, batch: dict[str, Any], logits: Any) -> None:
        """Add a batch of this rank: its inputs, and the logits of shape (rows, tokens, vocabulary), or with more."""
        logits = logits[0] if isinstance(logits, tuple) else logits
        world = self.trainer.strategy.world
        first = (self.batches * world.size + world.rank) * self.trainer.args.eval_batch_size
        self.batches += 1
        shifted = not self.trainer.model.config.is_encoder_decoder
        rows = list(_rows(shifted, batch, logits.argmax(-1).cpu(), first))
        for row in rows if self.order is not None else ():
            row.place = int(self.order[row.place])  # type: ignore[index]
        self.rows += rows


def evaluate(
    trainer: Trainer, dataset: Any, prefix: str, settings: Generation, forced: Forced | None
) -> dict[str, float]:
    """Return the metrics of an evaluation by generation; once it has succeeded, a failure is logged and passed over."""
    try:
        found = success(trainer, dataset, prefix, settings, trainer.state.global_step, forced)
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


def success(
    trainer: Trainer, dataset: Any, prefix: str, settings: Generation, step: int, forced: Forced | None = None
) -> dict[str, float]:
    """Generate, write `eval_results/step_<step>.json`, and return the metrics.

    Args:
        forced: the rows as an evaluation has just seen them; without any there is a pass over the rows first.

    Raises:
        DataError: generation failed on another rank; on the rank itself its own error is raised.
    """
    with together(trainer):
        results = _write_rows(trainer, dataset, settings, forced)
    everyone = trainer.strategy.gather(results)
    results = sorted((one for rank in everyone for one in rank), key=lambda one: one["row"])
    path = results_file(trainer.run_folder, step, prefix.removeprefix("eval").strip("_"))
    trainer.strategy.on_main(lambda: _write(path, results))
    return _metrics(results, prefix, step)


def results_file(run_folder: Path, step: int, name: str = "") -> Path:
    """Return where the rows of an evaluation are written; `name` is that of the set, where there are several."""
    return run_folder / "eval_results" / name / f"step_{step}.json"


def _write_rows(trainer: Trainer, dataset: Any, settings: Generation, forced: Forced | None) -> list[dict[str, Any]]:
    """Return the results of this rank's rows, generated where teacher forcing does not prove them right."""
    with evaluating(trainer, Records()) as model, torch.no_grad(), trainer.compute_loss_context_manager():
        if forced is None or not forced.rows:
            forced = _pass(trainer, model, dataset)
        rows = forced.rows
        open_rows = [row for row in rows if settings.verify == "all" or settings.num_beams > 1 or not row.proven]
        if settings.verify != "none":
            _generate(trainer, model, open_rows, settings)
    return [_result(trainer, row, settings.checker) for row in rows]


def _pass(trainer: Trainer, model: Any, dataset: Any) -> Forced:
    """Return this rank's rows after a pass of their own."""
    loader = trainer.get_eval_dataloader(dataset)
    forced = Forced(trainer, rows_of(loader))
    with closing(batches_of(trainer, loader)) as batches:
        for batch in batches:
            if not isinstance(batch, Repeat):
                given = trainer.strategy.to_device(batch)
                forced.add(batch, model(**{name: value for name, value in given.items() if name != "labels"}).logits)
    return forced


def _rows(shifted: bool, batch: dict[str, Any], argmax: torch.Tensor, first: int) -> Iterator[Row]:
    """Yield the rows of a batch, the first of which is row `first` of the set."""
    ids, mask, labels = (batch[name].cpu() for name in ("input_ids", "attention_mask", "labels"))
    if shifted:
        labels, argmax = labels[:, 1:], argmax[:, :-1]
    wanted = labels != IGNORED
    for i in range(len(labels)):
        given = ids[i][mask[i].bool()]
        if shifted:
            given = ids[i][: int(wanted[i].nonzero()[0]) + 1]
        target, predicted = labels[i][wanted[i]].tolist(), argmax[i][wanted[i]].tolist()
        yield Row(first + i, given.tolist(), target, predicted)


def _generate(trainer: Trainer, model: Any, rows: list[Row], settings: Generation) -> None:
    """Generate for some rows, those of similar length together, and note what was written."""
    rows = sorted(rows, key=lambda row: len(row.given))
    size, pad = trainer.args.eval_batch_size, trainer.processing_class.pad_token_id
    encoder = model.config.is_encoder_decoder
    positions = limits(model).get("positions", settings.max_length + max((len(row.given) for row in rows), default=0))
    for start in range(0, len(rows), size):
        with waiting(trainer.run):
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
    written = row.argmax if row.written is None else row.written
    generated = reference if written == row.target else text(written)
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
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in results)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
