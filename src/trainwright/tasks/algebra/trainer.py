"""A Trainer of problems and answers without the pipelines."""

from __future__ import annotations

from typing import Any

from trainwright.session.generation_settings import Generation
from trainwright.tasks.algebra.batches import batches_for
from trainwright.tasks.algebra.metrics import argmax_of_logits, shifted_argmax, token_metrics
from trainwright.trainer.trainer import Trainer as EngineTrainer


class Trainer(EngineTrainer):
    """Trainwright's Trainer with what CALT's has by default: token_accuracy and success_rate where no `compute_metrics`
    is given, and an `evaluate()` that generates too and writes `eval_results/step_N.json`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.data_collator = batches_for(self.model, self.processing_class, self.data_collator)
        if self.compute_metrics is None:
            self.compute_metrics = token_metrics
            if self.preprocess_logits_for_metrics is None:
                encoder = getattr(getattr(self.model, "config", None), "is_encoder_decoder", True)
                self.preprocess_logits_for_metrics = argmax_of_logits if encoder else shifted_argmax
        if self.generation is None and hasattr(self.model, "generate") and self.processing_class is not None:
            self.generation = Generation()
