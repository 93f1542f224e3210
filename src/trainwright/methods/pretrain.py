"""Pre-training: every token is learned, prompts too."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trainwright.config.keys.uses import KWARGS, refused
from trainwright.config.methods import recipe
from trainwright.config.options import SFTOptions
from trainwright.config.schema import TrainingConfig
from trainwright.data.sources.formats import Format
from trainwright.methods.sft import SFT

if TYPE_CHECKING:
    from trainwright.data.text.tokenize import TextRules

_WHY, _INSTEAD = "PRETRAIN learns every token", "use trainer_type SFT"


class Pretrain(SFT):
    """Our Trainer on whole rows, whatever they are."""

    title = "pre-training"
    lines = (
        *SFT.lines,
        *(refused(split, "collator_name", _WHY, _INSTEAD, fine=("text_with_padding",))
          for split in ("data.train", "data.validation")),
        *(refused(split, "train_target", _WHY, _INSTEAD) for split in ("data.train", "data.validation")),
        refused(KWARGS, "completion_only_loss assistant_only_loss", _WHY, _INSTEAD, fine=(False,)),
    )  # fmt: skip
    chosen_for = (Format.TEXT,)

    def example(self) -> str:
        """Return recipes/pretrain.yaml."""
        return recipe("pretrain")

    def rules(self, config: TrainingConfig, options: SFTOptions, tokenizer: Any, found: Format) -> TextRules:
        """Return how rows are tokenised: as for supervised fine-tuning, and prompts are learned too."""
        return replace(super().rules(config, options, tokenizer, found), completion_only=False)
