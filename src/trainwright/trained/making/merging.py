"""An adapter merged into its base: written, read again, and compared with what it was made of."""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainwright.checkpoint.model.adapters import merge
from trainwright.checkpoint.model.weights import save_model
from trainwright.errors import CheckpointError, ConfigError
from trainwright.models.inspect import limits
from trainwright.trained.folders import Trained, find
from trainwright.trained.loading import load
from trainwright.trained.making.places import place_for, written

_ROWS, _TOKENS = 2, 32  # on which logits are compared
_ROUNDINGS = 64  # of a number format, that the layers of a model may add up to


@dataclass(frozen=True)
class Agreement:
    """How far a merged model is from what it was made of, as the largest difference of a logit.

    Attributes:
        error: between the merged model and the base with the adapter.
        effect: between the base and the base with the adapter.
        scale: the largest logit of the base with the adapter.
        dtype: the weights' number format.
    """

    error: float
    effect: float
    scale: float
    dtype: torch.dtype

    @property
    def limit(self) -> float:
        """The greatest error that rounding explains.

        Half of the format's digits, sqrt(eps) of the largest logit, are always kept; and of an adapter that changes
        less than that, at least the half of its effect, unless that is rounding itself.
        """
        eps: float = torch.finfo(self.dtype).eps
        return self.scale * min(math.sqrt(eps), max(self.effect / (2 * max(self.scale, eps)), _ROUNDINGS * eps))

    def __str__(self) -> str:
        """Return it in words."""
        name = str(self.dtype).removeprefix("torch.")
        change = f"; the adapter changes them by up to {self.effect:.2g}" if self.effect else ""
        return (
            f"its logits, up to {self.scale:.2g}, differ from the original's by at most {self.error:.2g} "
            f"({name}){change}"
        )


@dataclass(frozen=True)
class Merged:
    """A model that was merged.

    Attributes:
        folder: where it lies.
        agreement: with what it was made of.
    """

    folder: Path
    agreement: Agreement


def merge_adapter(
    trained: Trained, out: str | Path | None = None, dtype: str | None = None, anew: bool = False
) -> Merged:
    """Merge an adapter into its base, and write the model that needs neither; it is read again and compared.

    Args:
        trained: an adapter on a base.
        out: a new folder; in the run's folder, `merged`, when not given.
        dtype: the weights' number format, such as bfloat16; that of the training when not given.
        anew: whether what lies in the folder gives way.

    Raises:
        ConfigError: it is no adapter, or one that cannot be merged; the folder is not empty.
        CheckpointError: what was written does not compute what base and adapter do; nothing is left then.
    """
    if not trained.is_adapter:
        raise ConfigError(f"{trained} is a whole model: there is no adapter to merge.")
    place = Path(out) if out is not None else place_for(trained, "merged")
    with written(place, anew) as temporary:
        model, tokenizer = load(trained, dtype)
        if model.active_peft_config.is_prompt_learning:
            raise ConfigError(
                f"The adapter in '{trained.folder}' is a prompt, which cannot be merged into weights; use it as it is."
            )
        ids = probe(model, tokenizer)
        adapted = logits(model, ids)
        with model.disable_adapter():
            base = logits(model, ids)
        save_model(merge(model), temporary, tokenizer)
        del model
        gc.collect()
        again, _ = load(find(temporary))
        agreement = agreement_of(base, adapted, logits(again, ids), again.dtype)
        if not agreement.error <= agreement.limit:  # NaN is not
            raise CheckpointError(
                f"Merging '{trained.folder}' failed: {agreement}, and rounding explains {agreement.limit:.2g}. Nothing "
                "was written. Give --dtype float32, or use the adapter as it is."
            )
    return Merged(place, agreement)


def agreement_of(
    base: torch.Tensor, adapted: torch.Tensor, merged: torch.Tensor, dtype: torch.dtype = torch.float32
) -> Agreement:
    """Return how far a merged model is from what it was made of; the logits are of one shape."""
    error, effect = ((one - adapted).abs().max().item() for one in (merged, base))
    return Agreement(error, effect, adapted.abs().max().item(), dtype)


def probe(model: Any, tokenizer: Any) -> torch.Tensor:
    """Return rows of tokens on which logits are compared: drawn from the whole vocabulary, always the same."""
    known = limits(model)
    width = min(_TOKENS, known.get("positions", _TOKENS))
    most = min(len(tokenizer), known.get("vocabulary", len(tokenizer)))
    return torch.randint(most, (_ROWS, width), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return a model's logits in float32; an encoder-decoder reads and writes the same tokens."""
    ids = ids.to(model.device)
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    found: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits
    return found.float()
