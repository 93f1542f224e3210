"""transformers' Trainer on the rows of tokens that our own would read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trainwright.config.schema import TrainingConfig
from trainwright.methods.sft import NLL_ONLY, OUR_ROWS, PACKED, SFT


class Transformers(SFT):
    """`transformers.Trainer`, supervised."""

    library, package = "transformers", ("accelerate", "trl")
    lines = (*NLL_ONLY, *OUR_ROWS, *PACKED)

    def not_the_same(self, config: TrainingConfig) -> Iterator[str]:
        """Yield what its rows and their order are, where the others have theirs."""
        kwargs = config.training.trainer_kwargs
        packs = kwargs.get("packing") or config.data.train.pack
        if packs and kwargs.get("packing_strategy", "bfd") != "wrapped":
            yield f"{self.name} gets the packed rows of our own packing, which are TRL's"
        if config.training.train_sampling_strategy == "group_by_length":
            yield f"{self.name} groups by lengths of its own counting"

    def upstream(self, config: TrainingConfig) -> Any:
        """Return `transformers.Trainer`."""
        from trainwright.upstream.build import build_transformers

        return build_transformers(config)
