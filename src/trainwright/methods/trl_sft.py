"""TRL's SFTTrainer on the same file."""

from __future__ import annotations

from typing import Any

from trainwright.config.keys.uses import refused
from trainwright.config.options import SFT_LOSSES
from trainwright.config.schema import TrainingConfig, TrainTarget
from trainwright.methods.sft import PACKED, SFT


class TrlSFT(SFT):
    """`trl.SFTTrainer`; TRL tokenises the rows itself."""

    library, package, reads_our_rows = "TRL", ("trl", "trl"), False
    losses = (*SFT_LOSSES, "chunked_nll")
    lines = (
        *PACKED,
        *(refused(split, "train_target", "TRL learns all of the assistant's turns",
                  "ALL_ASSISTANT_TURNS, or trainer_type SFT", fine=(TrainTarget.ALL_ASSISTANT_TURNS,))
          for split in ("data.train", "data.validation")),
    )  # fmt: skip

    def upstream(self, config: TrainingConfig) -> Any:
        """Return `trl.SFTTrainer`."""
        from trainwright.upstream.build import Wanted, build_trl

        return build_trl(config, self, Wanted("SFT"))
