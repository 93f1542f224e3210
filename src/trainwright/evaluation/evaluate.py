"""Evaluation and prediction: one pass over the rows, time linear in them, memory bounded by what is returned."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from trainwright.args.signatures import check_returned
from trainwright.bars import counting
from trainwright.batch import by_name
from trainwright.data.introspection import length_of
from trainwright.data.loaders.rows import PaddingBatch
from trainwright.errors import DataError, as_raised
from trainwright.evaluation import by_stage, generation
from trainwright.evaluation.live_metrics import LiveMetrics
from trainwright.evaluation.prediction_buffer import Collector, losses_of_rows
from trainwright.evaluation.prediction_step import of_step, reads_alone
from trainwright.inputs import dataloaders, dividing, document_isolation
from trainwright.losses import units
from trainwright.losses.eval_context import batches_of, evaluating, rows_of, together
from trainwright.losses.loss_source import own_copy
from trainwright.models.hooks import unwatched
from trainwright.saving import reporting
from trainwright.saving.agreement import by_all
from trainwright.session import metric_values
from trainwright.session.exact_sums import widened
from trainwright.session.meters import Records, averages
from trainwright.session.session import Evaluation, Hooks, Session
from trainwright.state import EvalLoopOutput, EvalPrediction, PredictionOutput


@as_raised
def evaluate(
    session: Session, dataset: Any, ignore_keys: list[str] | None, prefix: str, **settings: Any
) -> dict[str, Any]:
    """Evaluate one set, log its metrics and tell the callbacks; or each of several; see `Trainer.evaluate`."""
    sets = session.eval_dataset if dataset is None else dataset
    with by_all(session, "evaluate"):
        if isinstance(sets, dict) and (dataset is not None or session.eval_loader is None):
            names = {name: name if dataset is None else rows for name, rows in sets.items()}
            return evaluate_each(session, names, ignore_keys, prefix, settings)
        metrics = evaluate_set(session, dataset, ignore_keys, prefix)
        tell(session, metrics)
        return metrics


def evaluate_each(
    session: Session, sets: dict[str, Any], ignore_keys: list[str] | None, prefix: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """Evaluate several sets by `Trainer.evaluate`, which a subclass may override; log and tell their means besides."""
    metrics: dict[str, Any] = {}
    each = []
    for name, rows in sets.items():
        own = f"{prefix}_{name}"
        one = session.hooks.evaluate(eval_dataset=rows, ignore_keys=ignore_keys, metric_key_prefix=own, **settings)
        each.append({key.removeprefix(f"{own}_"): value for key, value in one.items() if key.startswith(f"{own}_")})
        metrics |= one
    shared = means(each, prefix)
    if shared:
        session.beside |= set(shared)
        session.hooks.log(dict(shared))
        tell(session, shared)
    return metrics | shared


def tell(session: Session, metrics: dict[str, Any]) -> None:
    """Tell the callbacks of an evaluation."""
    session.fire("evaluate", metrics=metrics)


def means(each: list[dict[str, Any]], prefix: str) -> dict[str, float]:
    """Return the mean over several sets of every number that all of them have, as `<prefix>_mean_<metric>`."""
    names = [n for n in each[0] if not n.endswith(("runtime", "per_second"))]
    columns: dict[str, list[Any]] = {name: [one.get(name) for one in each] for name in names}
    return {
        f"{prefix}_mean_{name}": float(np.mean(column))
        for name, column in columns.items()
        if all(isinstance(value, int | float) for value in column)
    }


def evaluate_set(session: Session, dataset: Any, ignore_keys: list[str] | None, prefix: str) -> dict[str, float]:
    """Evaluate one set and log its metrics."""
    if session.stage is not None and session.stage.measures:
        return by_stage.evaluate(session, session.stage, dataset, prefix)
    dividing.look(
        session, dataloaders.rows_to_evaluate(session.eval_dataset, session.eval_loader, dataset), dividing.EVALUATION
    )
    loader = session.hooks.get_eval_dataloader(dataset)
    dataloaders.check_loader(loader, session.hooks, "get_eval_dataloader")
    session.callback_handler.shared["eval_dataloader"] = loader
    started = time.monotonic()
    forced = None if session.generation is None else generation.forcing(session, loader)
    with session.evaluating(Evaluation(dataset if isinstance(dataset, str) else None, forced)):
        output = of_loop(
            session.hooks,
            loader,
            description="Evaluation",
            prediction_loss_only=True if metrics_function(session, loader, prefix) is None else None,
            ignore_keys=ignore_keys,
            metric_key_prefix=prefix,
        )
    metrics = dict(output.metrics or {})
    rows = output.num_samples or 0
    steps = -(-rows // (session.args.eval_batch_size * session.strategy.data_shard.num_shards))
    metrics |= reporting.speed(prefix, started, rows, steps)
    if session.generation is not None:
        metrics |= generation.evaluate(session, dataset, prefix, session.generation, forced)
    metrics |= kept_metrics(session, session.hooks.evaluation_metrics(prefix))
    metrics = session.strategy.from_main(metrics)
    session.hooks.log(dict(metrics))
    return {**metrics, "epoch": session.state.epoch}


def of_loop(hooks: Hooks, loader: Any, **settings: Any) -> EvalLoopOutput:
    """Return what `evaluation_loop`, which may be overridden, makes of a loader.

    Raises:
        ConfigError: nothing.
    """
    output = hooks.evaluation_loop(loader, **settings)
    fits = hasattr(output, "metrics") and hasattr(output, "num_samples")
    wanted = "an EvalLoopOutput, as super().evaluation_loop(...) does"
    check_returned(fits, output, f"{type(hooks).__name__}.evaluation_loop", wanted)
    return output


def kept_metrics(session: Session, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics in plain types.

    One that cannot be kept is refused, unless an earlier evaluation of this run was whole: then it is left out.
    """
    return metric_values.fit(session, metrics, refuse=session.run is None or not session.run.evaluated)


def metrics_function(session: Session, loader: Any, prefix: str) -> Any:
    """Return the metrics function: the one for all sets, or that of the set which a loader reads.

    A set is known by the name it was asked for by, by its rows, or by the end of the prefix, such as `eval_<name>`.
    """
    given, sets = session.compute_metrics, session.eval_dataset
    if not isinstance(given, dict):
        return given
    if session.evaluation.set_name is not None:
        return given.get(session.evaluation.set_name)
    rows = dataloaders.dataset_of(loader)
    same = [name for name, one in sets.items() if one is rows] if isinstance(sets, dict) else []
    ends = [name for name in same or given if prefix == name or prefix.endswith(f"_{name}")]
    if name := max(ends, key=len, default=same[0] if same else None):
        return given.get(name)
    return next(iter(given.values())) if len(given) == 1 and "_" not in prefix else None


@dataclass
class Totals:
    """Sums of an evaluation on this rank."""

    loss: float = 0.0
    weight: float = 0.0
    rows: int = 0
    batches: list[tuple[torch.Tensor, float]] = field(default_factory=list)

    def add(self, loss: torch.Tensor | None, weight: float, rows: int) -> None:
        """Add a batch; its loss stays on the device until the end."""
        self.rows += rows
        if loss is not None and weight:
            self.batches.append((widened(loss.detach()).mean(), weight))

    def sums(self) -> tuple[float, float, int]:
        """Return (sum of loss × weight, sum of weights, rows)."""
        if not self.batches:
            return 0.0, 0.0, self.rows
        losses = torch.stack([loss for loss, _ in self.batches]).cpu().double()
        weights = torch.tensor([weight for _, weight in self.batches], dtype=torch.float64)
        return float((losses * weights).sum()), float(weights.sum()), self.rows


@as_raised
def evaluation_loop(
    session: Session,
    loader: Any,
    *,
    loss_only: bool | None,
    ignore_keys: list[str] | None,
    prefix: str,
    wants_predictions: bool,
) -> EvalLoopOutput:
    """Run the model over a loader; return predictions, labels and metrics of all ranks, each row once.

    With `batch_eval_metrics`, predictions are kept only where they are what is wanted.
    """
    args, forced = session.args, session.evaluation.forced
    loss_only = args.prediction_loss_only if loss_only is None else loss_only
    function = metrics_function(session, loader, prefix)
    wanted = args.include_for_metrics
    collector = Collector(args.eval_do_concat_batches, "inputs" in wanted, "loss" in wanted)
    totals, live = Totals(), LiveMetrics(session, function) if args.batch_eval_metrics and function else None
    records = Records()
    with (
        together(session, loader) as marks,
        evaluating(session, records) as model,
        closing(batches_of(session, loader, marks)) as batches,
        counting(length_of(loader), "predicting" if wants_predictions else "evaluating") as tell,
    ):
        for batch in batches:
            is_padding = isinstance(batch, PaddingBatch)
            batch = batch.batch if isinstance(batch, PaddingBatch) else batch
            without_logits = loss_only and forced is None
            batch = batch if without_logits else document_isolation.rows_apart(session.model, batch)
            if length_of(loader) != 1 and not is_padding:
                units.look(session, batch)
            records.weight = weight = 0 if is_padding else session.hooks.count_eval_items(batch)
            rows = 0 if is_padding else document_isolation.rows_in(batch)
            given = batch if reads_alone(session.hooks) else own_copy(session.strategy.device, batch)
            with unwatched(session.model) if is_padding else nullcontext():
                step = session.hooks.prediction_step(model, given, without_logits, ignore_keys=ignore_keys)
                loss, logits, labels = of_step(session.hooks, step)
            totals.add(loss, weight, rows)
            if logits is not None and forced is not None and not is_padding:
                forced.add(batch, logits)
            if logits is not None and session.preprocess_logits_for_metrics is not None and not is_padding:
                logits = session.preprocess_logits_for_metrics(logits, labels)
                check_returned(logits is not None, logits, "preprocess_logits_for_metrics", "what is kept of them")
            if not loss_only and live is not None:
                each = None if loss is None or is_padding else losses_of_rows(loss, rows)
                live.add(None if is_padding or logits is None or labels is None else (each, logits, labels, batch))
            if not loss_only and (live is None or wants_predictions):
                inputs = main_input(session.model, batch) if "inputs" in args.include_for_metrics else None
                collector.add(loss, logits, labels, inputs, rows)
            session.fire("prediction_step")
            tell(1)
    if live is not None:
        live.finish()
    output = results(session, collector, totals, live=live, function=function, prefix=prefix, order=rows_of(loader))
    recorded = averages(session.strategy.gather_shards(records.take()))
    named = {f"{prefix}_{name}": value for name, value in recorded.items()}
    session.beside |= set(named)
    return output._replace(metrics={**(output.metrics or {}), **named})


def results(
    session: Session,
    collector: Collector,
    totals: Totals,
    *,
    live: LiveMetrics | None,
    function: Any,
    prefix: str,
    order: np.ndarray | None,
) -> EvalLoopOutput:
    """Bring the ranks' sums and predictions together, in the order of the rows, and compute the metrics."""
    strategy = session.strategy
    sums = strategy.one_per_shard(strategy.agree(*totals.sums()))
    loss, weight, rows = (sum(column) for column in zip(*sums, strict=True))
    if not rows:
        raise DataError("The evaluation data gave no batch: the set or loader is empty.")
    parts = collector.of_all_ranks(strategy, order)
    with together(session):
        metrics = {} if live is None else live.metrics
        if live is None and function is not None and has_both(parts):
            optional = {"inputs": parts.get("inputs"), "losses": parts.get("losses")}
            metrics = function(EvalPrediction(parts["predictions"], parts["labels"], **optional))
        elif live is None and function is not None and not session.evaluation.predicts:
            tell_of_no_metrics(session, parts)
        named = kept_metrics(session, metric_values.as_named(metrics, prefix))
    named = strategy.from_main(named)
    if weight:
        added = session.objective.sums and not session.hooks.has_own_loss
        named = {f"{prefix}_loss": loss if added else loss / weight, **named}
    return EvalLoopOutput(parts.get("predictions"), parts.get("labels"), named, int(rows))


def tell_of_no_metrics(session: Session, parts: Mapping[str, Any]) -> None:
    """Say why the metrics of an evaluation are not computed."""
    names = ", ".join(map(repr, session.label_names))
    why = f"a batch has no labels: none of its fields is {names} (label_names)"
    if parts.get("labels") is not None:
        why = "the model returns nothing but its loss"
    tell = session.note if session.run is None else session.run.note_once
    tell(f"compute_metrics is not called, since {why}.")


def has_both(parts: Mapping[str, Any]) -> bool:
    """Whether there are predictions and labels, so that there can be metrics of both."""
    return parts.get("predictions") is not None and parts.get("labels") is not None


@as_raised
def predict(session: Session, dataset: Any, ignore_keys: list[str] | None, prefix: str) -> PredictionOutput:
    """Predict a set, and tell the callbacks; see `Trainer.predict`."""
    started = time.monotonic()
    dividing.look(session, dataset, "test data")
    loader = session.hooks.get_test_dataloader(dataset)
    dataloaders.check_loader(loader, session.hooks, "get_test_dataloader")
    with by_all(session, "predict"), session.evaluating(Evaluation(predicts=True)):
        output = of_loop(
            session.hooks, loader, description="Prediction", ignore_keys=ignore_keys, metric_key_prefix=prefix
        )
    rows = output.num_samples or 0
    steps = -(-rows // (session.args.eval_batch_size * session.strategy.data_shard.num_shards))
    metrics = {**(output.metrics or {}), **reporting.speed(prefix, started, rows, steps)}
    session.fire("predict", metrics=metrics)
    return PredictionOutput(output.predictions, output.label_ids, metrics)


def main_input(model: Any, batch: Any) -> Any:
    """Return the model's main input of a batch."""
    return (by_name(batch) or {}).get(getattr(model, "main_input_name", "input_ids"))
