"""TRL's SFTTrainer on the same file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trainwright.config.keys.uses import KWARGS, refused
from trainwright.config.methods import Fault
from trainwright.config.options import SFTOptions
from trainwright.config.schema import TrainingConfig, TrainTarget
from trainwright.errors import did_you_mean
from trainwright.methods.sft import PACKED, SFT

LOSSES = ("nll", "dft", "chunked_nll")


class TrlSFT(SFT):
    """`trl.SFTTrainer`; TRL tokenises the rows itself."""

    library, package, reads_our_rows = "TRL", ("trl", "trl"), False
    lines = (
        *PACKED,
        *(refused(split, "train_target", "TRL learns all of the assistant's turns",
                  "ALL_ASSISTANT_TURNS, or trainer_type SFT", fine=(TrainTarget.ALL_ASSISTANT_TURNS,))
          for split in ("data.train", "data.validation")),
    )  # fmt: skip

    def faults(self, options: SFTOptions) -> Iterator[Fault]:
        """Yield a loss that TRL has not, besides what is wrong for supervised fine-tuning."""
        if options.loss_type not in LOSSES:
            what = f"loss_type '{options.loss_type}' is not known"
            yield f"{KWARGS}.loss_type", what, did_you_mean(options.loss_type, LOSSES).strip() or "nll or dft"
        yield from super().faults(options)

    def upstream(self, config: TrainingConfig) -> Any:
        """Return `trl.SFTTrainer`."""
        from trainwright.upstream.build import build_trl

        return build_trl(config, self, "SFT")
