"""`Seq2SeqTrainer`: evaluation and prediction by generation."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trainwright import compat
from trainwright.batch import IGNORED
from trainwright.errors import ConfigError, DataError
from trainwright.evaluation import evaluate
from trainwright.losses.loss_source import moved_by
from trainwright.state import PredictionOutput
from trainwright.trainer.trainer import Trainer

_DEFAULT_LENGTH = 20
"""What transformers' `generate` fills up to where nothing says how long."""


class Seq2SeqTrainer(Trainer):
    """A Trainer that generates in evaluation and prediction when `predict_with_generate` is set."""

    _gen_kwargs: dict[str, Any]

    if not TYPE_CHECKING:  # to a type checker, the arguments are the Trainer's

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._gen_kwargs = {}
            self._take_generation_config(self.model)

    def call_model_init(self, trial: Any = None) -> Any:
        """Return a new model from `model_init`, which generates as the arguments say."""
        return self._take_generation_config(super().call_model_init(trial))

    def _take_generation_config(self, model: Any) -> Any:
        chosen = getattr(self.args, "generation_config", None)
        if chosen is not None:
            model.generation_config = self.load_generation_config(chosen)
        return model

    @staticmethod
    def load_generation_config(source: Any) -> Any:
        """Return a GenerationConfig: a copy of one given, or read from a folder, a file or the hub.

        Raises:
            ConfigError: its settings contradict each other.
        """
        from transformers import GenerationConfig

        if isinstance(source, GenerationConfig):
            found = deepcopy(source)
        elif Path(source).is_file():
            found = GenerationConfig.from_pretrained(Path(source).parent, Path(source).name)
        else:
            found = GenerationConfig.from_pretrained(source)
        try:
            found.validate(strict=True)
        except ValueError as error:
            raise ConfigError(f"generation_config cannot work: {' '.join(str(error).split())}") from None
        return found

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        **gen_kwargs: Any,
    ) -> dict[str, float]:
        """Evaluate; `gen_kwargs` (max_length, num_beams, ...) go to `generate`."""
        self._gen_kwargs = self._settings(gen_kwargs)
        return evaluate.evaluate(self._session, eval_dataset, ignore_keys, metric_key_prefix, **gen_kwargs)

    def predict(
        self,
        test_dataset: Any,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
        **gen_kwargs: Any,
    ) -> PredictionOutput:
        """Predict; `gen_kwargs` (max_length, num_beams, ...) go to `generate`."""
        self._gen_kwargs = self._settings(gen_kwargs)
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Any,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[Any, Any, Any]:
        """Return (loss, generated tokens, labels) of a batch.

        The tokens are what `generate` returns: of a decoder-only model, they begin with the prompt, which ends where
        the labels begin.
        """
        if not getattr(self.args, "predict_with_generate", False) or prediction_loss_only:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        loss = None
        if "labels" in inputs:
            loss = super().prediction_step(model, inputs, True, ignore_keys)[0]
        moved = moved_by(self, inputs)
        decoder_only = not getattr(self.model.config, "is_encoder_decoder", False) and "input_ids" in moved
        kept = left_padded(moved, self._pad_token) if decoder_only else prompts_of(moved)
        with torch.no_grad(), self.compute_loss_context_manager():
            settings = compat.sound_beams(model, {**self._gen_kwargs, **gen_kwargs})
            settings |= self.strategy.generating(model)
            tokens = model.generate(**kept, **settings)  # type: ignore[operator]  # a PreTrainedModel
        labels = moved.get("labels")
        config: Any = model.generation_config
        width = config.max_length or _DEFAULT_LENGTH
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


def left_padded(inputs: dict[str, Any], pad_token: Callable[[], int]) -> dict[str, Any]:
    """Return the inputs of a decoder-only model's `generate`: each row up to its first label, the rows ending together.

    Args:
        inputs: `input_ids` and what else has their shape (rows, tokens); `labels` ignore the prompt.
        pad_token: gives the token before shorter prompts, where there are any.

    Raises:
        DataError: the labels of a row begin with its first token, so that it has no prompt.
    """
    ids, labels = inputs["input_ids"], inputs.get("labels")
    mask = inputs.get("attention_mask", torch.ones_like(ids)).bool()
    if labels is not None:
        mask = mask & ((labels != IGNORED).cumsum(-1) == 0)
    lengths = mask.sum(-1)
    if (lengths == 0).any():
        row = int((lengths == 0).nonzero()[0])
        raise DataError(
            f"predict_with_generate=True: row {row} of a batch has labels from its first token on, so nothing is left "
            "as the prompt of a decoder-only model. Set the labels of the prompt's tokens to -100."
        )
    width = int(lengths.max())
    token = pad_token() if int(lengths.min()) < width else 0

    places = torch.arange(width, device=ids.device) >= width - lengths[:, None]  # (rows, width)

    def moved(value: torch.Tensor, fill: int) -> torch.Tensor:
        return value.new_full(places.shape, fill).masked_scatter(places, value[mask])

    kept = {"input_ids": moved(ids, token), "attention_mask": places.to(torch.int64)}
    for name, value in inputs.items():
        if name in (*kept, "labels", "position_ids"):
            continue
        kept[name] = moved(value, 0) if isinstance(value, torch.Tensor) and value.shape == ids.shape else value
    return kept
