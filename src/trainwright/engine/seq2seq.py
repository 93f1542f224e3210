"""`Seq2SeqTrainer`: evaluation and prediction by generation."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainwright.engine import evaluation
from trainwright.engine.trainer import Trainer
from trainwright.errors import ConfigError
from trainwright.state import PredictionOutput

_DEFAULT_LENGTH = 20
"""What transformers' `generate` fills up to where nothing says how long."""


class Seq2SeqTrainer(Trainer):
    """A Trainer that generates in evaluation and prediction when `predict_with_generate` is set."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._generation: dict[str, Any] = {}
        chosen = getattr(self.args, "generation_config", None)
        if chosen is not None:
            self.model.generation_config = self.load_generation_config(chosen)

    @staticmethod
    def load_generation_config(source: Any) -> Any:
        """Return a GenerationConfig: a copy of one given, or read from a folder, a file or the hub."""
        from transformers import GenerationConfig

        if isinstance(source, GenerationConfig):
            return deepcopy(source)
        path = Path(source)
        if path.is_file():
            return GenerationConfig.from_pretrained(path.parent, path.name)
        return GenerationConfig.from_pretrained(source)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        **gen_kwargs: Any,
    ) -> dict[str, float]:
        """Evaluate; `gen_kwargs` (max_length, num_beams, ...) go to `generate`."""
        self._generation = self._settings(gen_kwargs)
        return evaluation.evaluate(self, eval_dataset, ignore_keys, metric_key_prefix, **gen_kwargs)

    def predict(
        self,
        test_dataset: Any,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
        **gen_kwargs: Any,
    ) -> PredictionOutput:
        """Predict; `gen_kwargs` (max_length, num_beams, ...) go to `generate`."""
        self._generation = self._settings(gen_kwargs)
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Any,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[Any, Any, Any]:
        """Return (loss, generated tokens, labels) of a batch."""
        if not getattr(self.args, "predict_with_generate", False) or prediction_loss_only:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        loss = None
        if "labels" in inputs:
            loss = super().prediction_step(model, inputs, True, ignore_keys)[0]
        moved = self._prepare_inputs(inputs)
        kept = prompts_of(moved)
        with torch.no_grad(), self.compute_loss_context_manager():
            tokens = model.generate(**kept, **{**self._generation, **gen_kwargs})  # type: ignore[operator]
        labels = moved.get("labels")
        config = model.generation_config
        width: Any = config.max_length or _DEFAULT_LENGTH  # type: ignore[union-attr]
        return loss, self._padded(tokens, width), None if labels is None else self._padded(labels, width)

    def _settings(self, given: dict[str, Any]) -> dict[str, Any]:
        settings = dict(given)
        if "max_length" not in settings and "max_new_tokens" not in settings:
            settings["max_length"] = getattr(self.args, "generation_max_length", None)
        settings.setdefault("num_beams", getattr(self.args, "generation_num_beams", None))
        return {name: value for name, value in settings.items() if value is not None}

    def _padded(self, tokens: torch.Tensor, width: int) -> torch.Tensor:
        missing = width - tokens.shape[-1]
        if missing <= 0:
            return tokens
        return nn.functional.pad(tokens, (0, missing), value=self._pad_token())

    def _pad_token(self) -> int:
        for owner in (self.processing_class, self.model.generation_config, self.model.config):
            found = getattr(owner, "pad_token_id", None)
            if isinstance(found, int):
                return found
        raise ConfigError("Generated sequences differ in length, so a pad token is needed: set config.pad_token_id.")


def prompts_of(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs of `generate`: without the labels, and without decoder inputs that were made of them."""
    kept = {name: value for name, value in inputs.items() if name != "labels"}
    started, labels = inputs.get("decoder_input_ids"), inputs.get("labels")
    if started is not None and labels is not None and started.shape == labels.shape:
        kept = {name: value for name, value in kept.items() if not name.startswith("decoder_")}
    return kept
