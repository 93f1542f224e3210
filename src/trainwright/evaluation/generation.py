"""Evaluation by generation: what the model writes for every row, and whether it is the reference.

In greedy decoding a row is written exactly if every argmax under the reference (teacher forcing) is right, given the
same numbers. So one forward pass proves the right rows, and only the others are generated. Whatever shows it, an answer
is right only if it ends within the tokens that may be generated, and holds no special token but at its ends.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trainwright.bars import counting
from trainwright.data.loaders.rows import PaddingBatch
from trainwright.errors import ConfigError, as_raised
from trainwright.losses.eval_context import batches_of, evaluating, rows_of, together, waiting
from trainwright.models.inspect import limits
from trainwright.parallel.strategy import Strategy
from trainwright.session.generation_settings import Checker, Generation, Row, TeacherForcedRows
from trainwright.session.meters import Records
from trainwright.session.session import Session

logger = logging.getLogger("trainwright")
_BUCKETS = (4, 8, 16, 32, 64, 128)  # tokens of a reference


def evaluate(
    session: Session, dataset: Any, prefix: str, settings: Generation, forced: TeacherForcedRows | None
) -> dict[str, float]:
    """Return the metrics of an evaluation by generation; once it has succeeded, a failure is logged and passed over."""
    try:
        step = session.state.global_step
        found = success(session, dataset, prefix=prefix, settings=settings, step=step, forced=forced)
    except Exception:
        if not settings.worked:
            raise
        if not settings.failed:
            logger.exception("Evaluation by generation failed; training goes on.")
        settings.failed = True
        return {f"{prefix}_generation_error": 1.0}
    settings.worked = True
    return found


@as_raised
def evaluate_and_save_generation(
    session: Session, max_length: int | None = None, step: int | None = None
) -> float:  # fmt: skip
    """Generate for the evaluation set, save what was written, and return the share of exact matches.

    Args:
        max_length: tokens that are generated at most, in place of `trainer.generation.max_length`.
        step: names the file that is written; the current one when not given.

    Raises:
        ConfigError: there is no evaluation set.
    """
    if session.eval_dataset is None:
        raise ConfigError("Evaluation by generation needs eval_dataset=.")
    base = session.generation or Generation()
    settings = base if max_length is None else replace(base, max_length=max_length)
    number = session.state.global_step if step is None else step
    found = success(session, None, prefix="eval", settings=settings, step=number)
    return found["eval_generation_success_rate"]


def success(
    session: Session,
    dataset: Any,
    *,
    prefix: str,
    settings: Generation,
    step: int,
    forced: TeacherForcedRows | None = None,
) -> dict[str, float]:
    """Generate, write `eval_results/step_<step>.json`, and return the metrics.

    Args:
        forced: the rows as an evaluation has just seen them; without any there is a pass over the rows first.

    Raises:
        DataError: generation failed on another rank; on the rank itself its own error is raised.
    """
    with together(session):
        results = _write_rows(session, dataset, settings, forced)
    everyone = session.strategy.gather_shards(results)
    results = sorted((one for rank in everyone for one in rank), key=lambda one: one["row"])
    path = results_file(session.run_folder, step, prefix.removeprefix("eval").strip("_"))
    session.strategy.on_main(lambda: _write(path, results))
    if session.strategy.is_main:
        _tell_errors(results)
    return _metrics(results, prefix, step)


def results_file(run_folder: Path, step: int, name: str = "") -> Path:
    """Return where the rows of an evaluation are written; `name` is that of the set, where there are several."""
    return run_folder / "eval_results" / name / f"step_{step}.json"


def _write_rows(
    session: Session, dataset: Any, settings: Generation, forced: TeacherForcedRows | None
) -> list[dict[str, Any]]:
    """Return the results of this rank's rows, generated where teacher forcing does not prove them right."""
    with evaluating(session, Records()) as model, torch.no_grad(), session.hooks.compute_loss_context_manager():
        if forced is None or not forced.rows:
            forced = _pass(session, model, dataset)
        rows, most = forced.rows, _limit(session.model, settings)
        open_rows = [row for row in rows if settings.verify == "all" or settings.num_beams > 1 or not row.proven]
        for row in rows:
            row.written = row.argmax[: most(row)]
        if settings.verify != "none":
            _generate(session, model, open_rows, settings)
    special, checker = Special.of(session.processing_class), settings.checker if settings.verify != "none" else None
    return [_result(session.processing_class, special, row, checker) for row in rows]


def _limit(model: Any, settings: Generation) -> Callable[[Row], int]:
    """Return how many tokens may be generated for a row: as many as are asked for, and as the model has positions."""
    positions = limits(model).get("positions")
    if positions is None:
        return lambda row: settings.max_length
    if model.config.is_encoder_decoder:
        return lambda row: min(settings.max_length, positions)
    return lambda row: min(settings.max_length, positions - len(row.given))


def forcing(session: Session, loader: Any) -> TeacherForcedRows:
    """Return what collects the rows of an evaluation's loader, which are none yet."""
    shifted = not session.model.config.is_encoder_decoder
    return TeacherForcedRows(session.strategy.data_shard, session.args.eval_batch_size, rows_of(loader), shifted)


def _pass(session: Session, model: Any, dataset: Any) -> TeacherForcedRows:
    """Return this rank's rows after a pass of their own."""
    loader = session.hooks.get_eval_dataloader(dataset)
    forced = forcing(session, loader)
    with closing(batches_of(session, loader)) as batches:
        for batch in batches:
            if not isinstance(batch, PaddingBatch):
                given = session.strategy.to_device(batch)
                forced.add(batch, model(**{name: value for name, value in given.items() if name != "labels"}).logits)
    return forced


def _generate(session: Session, model: Any, rows: list[Row], settings: Generation) -> None:
    """Generate for some rows, those of similar length together, and note what was written."""
    rows, most = sorted(rows, key=lambda row: len(row.given)), _limit(session.model, settings)
    size, end = session.args.eval_batch_size, session.processing_class.eos_token_id
    left = [rows[start : start + size] for start in range(0, len(rows), size)]
    with counting(len(rows), "generating") as tell:
        while _any_left(session.strategy, left):
            with waiting(session):
                some = left.pop(0) if left else []
            together_most = min(map(most, some), default=1)
            given = some or [Row(0, [end], [], [])]  # for processes that run the model together, of which one is done
            written = _written(
                session.strategy, session.processing_class, model, given, settings.num_beams, together_most
            )
            for row, tokens in zip(some, written, strict=False):
                row.written = tokens
                if end not in tokens and most(row) > together_most:  # cut off by the longest prompt of the batch alone
                    left.insert(0, [row])
                else:
                    tell(1)


def _any_left(strategy: Strategy, left: list[list[Row]]) -> bool:
    """Whether there is a batch to generate for, of any process where they run the model together."""
    return strategy.any(left) if strategy.shards_state else bool(left)


def _written(
    strategy: Strategy, tokenizer: Any, model: Any, rows: list[Row], num_beams: int, most: int
) -> list[list[int]]:
    """Return what is generated for a batch; processes that run the model together go on until all of them are done."""
    encoder, device = model.config.is_encoder_decoder, strategy.device
    width = max(len(row.given) for row in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    for number, row in enumerate(rows):
        # prompts end together
        place = slice(0, len(row.given)) if encoder else slice(width - len(row.given), width)
        ids[number, place] = torch.tensor(row.given)
        mask[number, place] = 1
    settings = {
        "num_beams": num_beams,
        "do_sample": False,
        "max_new_tokens": most,
        **strategy.generating(model),
    }
    made = model.generate(ids.to(device), attention_mask=mask.to(device), **settings)
    written: list[list[int]] = made[:, 1 if encoder else width :].tolist()
    return written


@dataclass(frozen=True)
class Special:
    """The special tokens of a tokenizer, which takes long to tell them for every row."""

    begin: int | None
    end: int | None
    pad: int | None
    unknown: int | None
    all: frozenset[int]

    @classmethod
    def of(cls, tokenizer: Any) -> Special:
        """Return those of a tokenizer."""
        named = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
        return cls(*named, frozenset(tokenizer.all_special_ids))


def _result(tokenizer: Any, special: Special, row: Row, checker: Checker | None) -> dict[str, Any]:
    """Return what is saved of a row."""
    written = row.argmax if row.written is None else row.written
    inner, wanted = _inner(special, written), _inner(special, row.target)
    problem = tokenizer.decode(row.given, skip_special_tokens=True).strip()
    reference = tokenizer.decode(wanted).strip()
    generated = reference if inner == wanted else tokenizer.decode(inner).strip()
    finished = special.end in written or special.end not in row.target
    same = generated == reference and finished and special.unknown not in inner
    result = {
        "row": row.place,
        "input": problem,
        "generated": generated,
        "reference": reference,
        "correct": same,
        "length": len(row.target),
    }
    if not finished:
        result["finished"] = False
    alike = written == row.target or _shown(tokenizer, written) == _shown(tokenizer, row.target)
    if alike != same:
        result["calt_correct"] = alike
    if checker is not None:
        result["algebraically_correct"] = same
        if not same and finished and special.all.isdisjoint(inner):
            result |= _checked(checker, problem, reference, generated)
    return result


def _shown(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return text.strip()


def _inner(special: Special, ids: list[int]) -> list[int]:
    """Return the tokens of an answer without begin, end, and padding after it."""
    end = ids.index(special.end) if special.end in ids else len(ids)
    start = 1 if ids[:1] == [special.begin] else 0
    while end > start and ids[end - 1] == special.pad:
        end -= 1
    return ids[start:end]


def _checked(checker: Checker, problem: str, reference: str, generated: str) -> dict[str, Any]:
    """Return the checker's verdict; where it fails, an answer is wrong, and the error is kept."""
    try:
        return {"algebraically_correct": bool(checker(problem, reference, generated))}
    except Exception as error:
        return {"algebraically_correct": False, "checker_error": repr(error)}


def _metrics(results: list[dict[str, Any]], prefix: str, step: int) -> dict[str, float]:
    """Return the shares of right rows: in all, by algebra, by length of the reference, and by CALT's rule (special
    tokens are skipped wherever they stand, and an answer needs no end) where that is another."""
    found = {f"{prefix}_generation_success_rate": _share(results, "correct"), f"{prefix}_generation_step": step}
    if any("calt_correct" in one for one in results):
        calt = [{"calt_correct": one["correct"], **one} for one in results]
        found[f"{prefix}_generation_calt_success_rate"] = _share(calt, "calt_correct")
    if results and "algebraically_correct" in results[0]:
        found[f"{prefix}_generation_algebra_rate"] = _share(results, "algebraically_correct")
    for least, most in itertools.pairwise((0, *_BUCKETS, math.inf)):
        part = [one for one in results if least < one["length"] <= most]
        if part and len(part) < len(results):
            name = f"to_{most}" if most < math.inf else f"above_{least}"
            found[f"{prefix}_generation_success_rate_{name}_tokens"] = _share(part, "correct")
    return found


def _share(results: list[dict[str, Any]], name: str) -> float:
    return float(sum(one[name] for one in results) / max(len(results), 1))


def _tell_errors(results: list[dict[str, Any]]) -> None:
    """Say where the checker failed."""
    failed = [one for one in results if "checker_error" in one]
    if failed:
        first = failed[0]
        logger.warning(
            "The checker failed on %d of %d answers, which count as wrong by algebra; on that of row %d, %r, with %s",
            len(failed), len(results), first["row"], first["generated"][:60], first["checker_error"],
        )  # fmt: skip


def _write(path: Path, results: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in results)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
