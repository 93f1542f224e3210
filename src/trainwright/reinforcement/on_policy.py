"""Between the loader and the step of a distillation: some rows are learned as the student itself goes on from their
prompts (Agarwal et al. 2024, arXiv:2306.13649).

Which rows, and every random number, follow from (seed, pass, the row's tokens), so neither micro-batches nor ranks nor
a kill change them: a run that goes on writes the same again with the same weights.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch

from trainwright import randomness
from trainwright.batch import IGNORED
from trainwright.data.loaders.rows import PaddingBatch
from trainwright.data.text.text_collators import padded
from trainwright.errors import DataError
from trainwright.generation.choosing import uniforms
from trainwright.generation.rollouts import Rollouts
from trainwright.losses.step_batch import StepBatch
from trainwright.session.run import Run
from trainwright.session.session import Session
from trainwright.session.signals import StopWaiting
from trainwright.training import shutdown

_DECIDES, _WRITES = 0, 1  # what a row's random numbers are for


@dataclass
class OnPolicyStage:
    """Writes completions in place of those of the data.

    Attributes:
        session: of the Trainer.
        rollouts: writes with the student.
        share: of the rows that are written by it, by chance, from 0 to 1.
        pad: token that fills rows up.
        multiple: what the width of micro-batches is a multiple of.
        seed: of what is drawn.
    """

    session: Session
    rollouts: Rollouts
    share: float
    pad: int
    multiple: int | None
    seed: int
    measures = False
    in_use = None

    def begin(self, saved: Any) -> None:
        """Begin with nothing: what is written is used at once."""

    def close(self) -> None:
        """End nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return what random numbers follow from."""
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on: the weights and the rows say all."""

    def evaluate(self, prefix: str) -> dict[str, Any]:
        """Evaluations are of the completions of the data, by the engine."""
        raise NotImplementedError

    def work(self, run: Run, work: StepBatch) -> StepBatch:
        """Return a step's micro-batches with the completions of some rows written anew, and weighed anew.

        Raises:
            DataError: completions could not be written, here or on another rank.
        """
        strategy, failure = self.session.strategy, None
        batches = work.batches
        try:
            with run.signals.waiting(), randomness.seeded(self.seed, run.epoch, run.position):
                batches = self._written(run.epoch, work)
        except StopWaiting:
            pass
        except Exception as error:
            failure = error
        counts = [
            float(self.session.objective.count(b)) if items else 0.0
            for b, items in zip(batches, work.items, strict=True)
        ]
        mine = (run.signals.received or 0, None if failure is None else repr(failure), float(sum(counts)))
        everyone = strategy.gather(mine)
        if strategy.is_distributed and any(stop for stop, *_ in everyone):
            run.agreed_stop = max(stop for stop, *_ in everyone)
        if run.stop is not None:
            shutdown.leave(run)
        if failure is not None:
            raise failure
        failed = [f"rank {rank}: {text}" for rank, (_, text, _) in enumerate(everyone) if text]
        if failed:
            raise DataError(f"Writing completions failed on {failed[0]}")
        return replace(
            work, batches=batches, items=counts, total=sum(count for *_, count in strategy.one_per_shard(everyone))
        )

    def _written(self, epoch: int, work: StepBatch) -> list[Any]:
        """Return the micro-batches with what the student wrote; it writes for all of them at a time.

        Raises:
            DataError: nothing stands before what a row learns.
        """
        plain = [batch.batch if isinstance(batch, PaddingBatch) else batch for batch in work.batches]
        each = [[_Row.of(batch, number) for number in range(len(batch["input_ids"]))] for batch in plain]
        rows = [row for some in each for row in some]
        chances = uniforms([(self.seed, epoch, row.key, _DECIDES) for row in rows], 1, 1).squeeze(1).tolist()
        chosen = [row for row, chance in zip(rows, chances, strict=True) if chance < self.share]
        if not chosen:
            return plain
        if any(not row.start for row in chosen):
            raise DataError("A row learns its first token, so the student has no prompt to write after (lmbda).")
        prompts = [row.ids[: row.start] for row in chosen]
        keys = [(self.seed, epoch, row.key, _WRITES) for row in chosen]
        with self.session.hooks.compute_loss_context_manager():
            found = self.rollouts.complete([prompt.tolist() for prompt in prompts], keys)
        for row, prompt, (completion,) in zip(chosen, prompts, found, strict=True):
            row.ids = torch.cat([prompt, completion.ids])
            row.labels = torch.cat([torch.full_like(prompt, IGNORED), completion.ids])
        return [self._batch(some) for some in each]

    def _batch(self, rows: list[_Row]) -> dict[str, torch.Tensor]:
        return {
            "input_ids": padded([row.ids for row in rows], self.pad, self.multiple),
            "attention_mask": padded([torch.ones_like(row.ids) for row in rows], 0, self.multiple),
            "labels": padded([row.labels for row in rows], IGNORED, self.multiple),
        }


@dataclass
class _Row:
    """A row of a micro-batch.

    Attributes:
        ids: its tokens, without padding.
        labels: of the same shape.
        start: where the last part that is learned begins.
        key: tells it from others.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    start: int
    key: int

    @classmethod
    def of(cls, batch: Any, number: int) -> _Row:
        seen = batch["attention_mask"][number].bool()
        ids, labels = batch["input_ids"][number][seen], batch["labels"][number][seen]
        learned = (labels != IGNORED).nonzero().flatten().tolist()
        start = learned[-1] if learned else len(ids)
        while start and int(labels[start - 1]) != IGNORED:
            start -= 1
        digest = hashlib.blake2b(ids.numpy().tobytes(), digest_size=7).digest()
        return cls(ids, labels, start, int.from_bytes(digest, "little"))
