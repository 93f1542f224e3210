"""The model of `model_type: encoder_classifier`: it reads a problem whose answer is one token, and chooses that."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_outputs import Seq2SeqLMOutput

from trainwright.batch import IGNORED
from trainwright.tasks.algebra.models.transformer import ProblemEncoder, ProblemModel, ProblemTransformerConfig


class ProblemClassifierConfig(ProblemTransformerConfig):
    """Sizes of a ProblemClassifier; those of a decoder are not read."""

    model_type = "trainwright_problem_classifier"


class ProblemClassifier(ProblemModel):
    """An encoder whose vectors are averaged over the problem, and a projection onto the vocabulary."""

    config_class = ProblemClassifierConfig

    def __init__(self, config: ProblemClassifierConfig) -> None:
        super().__init__(config)
        self.encoder = ProblemEncoder(config)
        self.head = nn.Linear(config.d_model, config.vocab_size)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **_: Any,
    ) -> Seq2SeqLMOutput:
        """Return the logits of the answer, shape (rows, 1, vocabulary), and with labels the loss.

        Args:
            input_ids, attention_mask: the problem, (rows, tokens); 0 in the mask for padding.
            labels: the answer's token, (rows, 1), -100 where there is none.
        """
        states = self.encoder(input_ids, attention_mask)[0]
        seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weights = seen[..., None].to(states.dtype)
        logits = self.head((states * weights).sum(1) / weights.sum(1).clamp_min(1))[:, None]
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)
        return Seq2SeqLMOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> torch.Tensor:
        """Return begin, answer and end of every row, as what is decoded; shape (rows, 3)."""
        answer = self(inputs, attention_mask).logits.argmax(-1)
        ends = (torch.full_like(answer, one) for one in (self.config.bos_token_id, self.config.eos_token_id))
        begin, end = ends
        return torch.cat([begin, answer, end], dim=1)
