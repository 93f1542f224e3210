"""The reference of preferences: which model it is, or its log-probabilities, computed once and kept in the run's
folder."""

from __future__ import annotations

import copy
import hashlib
import os
from typing import Any

import torch
from torch.utils.data import Dataset

from trainwright import __version__
from trainwright.bars import counting
from trainwright.config.schema import TrainingConfig
from trainwright.losses import fused_loss
from trainwright.models.load import beside, grow, load_model, without_dropout
from trainwright.objectives.preference import PreferenceLoss
from trainwright.session.session import Session
from trainwright.tasks.language.method import Text


def add_reference(session: Session, config: TrainingConfig, text: Text, base: Any = None) -> None:
    """Give the objective its reference: a model of its own, the model without adapters, or numbers computed once.

    Args:
        base: the model without adapters, where that is a copy.
    """
    objective: Any = session.objective
    options, model = text.options, session.model
    fresh_adapters = config.training.use_peft and config.model.adapter_model is None
    if options.ref_model is not None:
        params = beside(config.model, options.ref_model)
        objective.reference = load_model(params, text.tokenizer, key="training.trainer_kwargs.ref_model")
        grow(objective.reference, text.tokenizer, config.model)
    elif base is not None:
        objective.reference = base
    elif fresh_adapters:
        objective.without_adapters = model.disable_adapter
    elif not options.precompute_ref_log_probs:
        objective.reference = copy.deepcopy(model)
    if objective.reference is not None:
        reference: Any = without_dropout(objective.reference).requires_grad_(False).eval()
        reference.config.use_cache = False
        objective.reference = session.strategy.place(reference)
        objective.fused_reference = fused_loss.of_frozen(session, reference)
    if options.precompute_ref_log_probs:
        batch_size = options.precompute_ref_batch_size or session.args.per_device_eval_batch_size
        session.train_dataset = with_reference(session, objective, text.train, batch_size, "training data")
        if text.evaluation is not None:
            judged = with_reference(session, objective, text.evaluation, batch_size, "validation data")
            session.eval_dataset = judged
        objective.reference = objective.fused_reference = None


class WithReference(Dataset[Any]):
    """Pairs with the log-probabilities of their answers under the reference.

    Args:
        rows: pairs of tokens.
        log_probs: shape (pairs, 2), the chosen answer first.
    """

    def __init__(self, rows: Any, log_probs: torch.Tensor) -> None:
        self.rows = rows
        self.log_probs = log_probs

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {**self.rows[index], "reference": self.log_probs[index]}

    @property
    def content(self) -> Any:
        """What of it is data."""
        return self.rows

    @property
    def lengths(self) -> Any:
        """Tokens of every pair."""
        return self.rows.lengths

    @property
    def contents(self) -> Any:
        """What the pairs hold."""
        return self.rows.contents


def with_reference(session: Session, objective: PreferenceLoss, rows: Any, batch_size: int, what: str) -> WithReference:
    """Return the pairs with the reference's log-probabilities: those of an earlier start of this run, or computed now.

    Args:
        session: of the run, before any step.
        objective: has the reference.
        rows: pairs of tokens.
        batch_size: pairs at a time.
        what: which data, for messages.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    file = session.run_folder / f"reference-{key_of(session, objective, rows)}.safetensors"

    def read() -> torch.Tensor | None:
        try:
            return load_file(file)["log_probs"] if file.exists() else None
        except SafetensorError as error:
            session.note(f"{file.name} is damaged ({error}); it is made anew.")
            return None

    kept = session.strategy.on_main(read)
    if kept is not None:
        return WithReference(rows, kept)
    session.note(f"The reference's log-probabilities of the {what} ({len(rows)} pairs) are computed once.")
    log_probs = compute(session, objective, rows, batch_size)

    def write() -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}-{os.getpid()}")
        save_file({"log_probs": log_probs}, part)
        part.replace(file)  # whole or not at all, wherever a kill comes

    session.strategy.on_main(write)
    return WithReference(rows, log_probs)


@torch.no_grad()
def compute(session: Session, objective: PreferenceLoss, rows: Any, batch_size: int) -> torch.Tensor:
    """Return the reference's log-probabilities of all pairs, shape (pairs, 2); the ranks share the work."""
    strategy = session.strategy
    model = strategy.place(session.model)
    fused_loss.prepare(session)
    mine: list[tuple[int, torch.Tensor]] = []
    shard = strategy.data_shard
    rounds = range(0, len(rows), batch_size * shard.num_shards)
    try:
        with counting(len(rounds), "batches judged by the reference") as tell:
            for first in rounds:
                own = first + shard.index * batch_size
                start = own if own < len(rows) else first  # the processes call the model equally often
                some = [rows[number] for number in range(start, min(start + batch_size, len(rows)))]
                batch = session.data_collator(some)
                fused_loss.before_loss(session, batch)
                if strategy.shards_state:
                    fused_loss.prove(session, objective.model_inputs(batch))
                with session.hooks.compute_loss_context_manager():
                    inputs = objective.model_inputs(strategy.to_device(batch))
                    mine += [(own, objective.reference_log_probs(model, inputs).cpu())] if start == own else []
                tell(1)
    finally:
        strategy.rest(model)
        fused_loss.finish(session)
    parts = sorted((part for shard in strategy.gather_shards(mine) for part in shard), key=lambda part: part[0])
    return torch.cat([values for _, values in parts])


def key_of(session: Session, objective: PreferenceLoss, rows: Any) -> str:
    """Return a key of everything that the numbers depend on: the pairs as they are tokenised and cut, how they are
    summed, the weights that judge them, and what these are computed with."""
    args, strategy = session.args, session.strategy
    judge: Any = objective.reference if objective.reference is not None else session.model
    adapters = {name: repr(config) for name, config in getattr(judge, "peft_config", {}).items()}
    config = judge.config.to_json_string() if hasattr(judge.config, "to_json_string") else repr(judge.config)
    parts = (
        __version__, rows.table._fingerprint, rows.limit, objective.options, args.bf16, args.fp16, config, adapters,
        objective.without_adapters is not None,
    )  # fmt: skip
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8)
    digest.update(rows.kept.tobytes())
    for name, value in judge.state_dict().items():
        digest.update(repr((name, value.dtype, tuple(value.shape))).encode())
        digest.update(strategy.held(value).cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    everyone = strategy.gather(digest.hexdigest()) if strategy.shards_state else []
    return hashlib.blake2b("".join(everyone).encode(), digest_size=8).hexdigest() if everyone else digest.hexdigest()
