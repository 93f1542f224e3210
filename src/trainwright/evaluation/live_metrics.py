"""Metrics of predictions that nobody keeps."""

from __future__ import annotations

from typing import Any

from trainwright.evaluation.prediction_buffer import to_host
from trainwright.session.session import Session
from trainwright.state import EvalPrediction


class LiveMetrics:
    """Metrics computed batch by batch (`batch_eval_metrics`), so that no predictions are kept."""

    def __init__(self, session: Session, function: Any) -> None:
        self.session = session
        self.function = function
        self.waiting: Any = None
        self.metrics: dict[str, float] = {}

    def add(self, batch: Any) -> None:
        """Give the batch before this one to the metrics function, of every rank in turn."""
        self._take((to_host(batch), True))

    def finish(self) -> None:
        """Give what ranks with more batches have left, and the last one; keep what the function returns for it."""
        while self._take((None, False)):
            pass
        self._flush(last=True)

    def _take(self, mine: tuple[Any, bool]) -> bool:
        """Exchange a batch, and whether there was one; return whether any rank had one."""
        everyone = self.session.strategy.gather_shards(mine)
        if not any(has for _, has in everyone):
            return False
        self._flush(last=False)
        self.waiting = [batch for batch, _ in everyone]
        return True

    def _flush(self, last: bool) -> None:
        present = [one for one in self.waiting or [] if one is not None]
        for number, (loss, logits, labels, batch) in enumerate(present):
            final = last and number == len(present) - 1
            wanted = self.session.args.include_for_metrics
            prediction = EvalPrediction(
                logits, labels, batch if "inputs" in wanted else None, loss if "loss" in wanted else None
            )
            self.metrics = self.function(prediction, compute_result=final)
        self.waiting = None
