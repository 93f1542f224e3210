"""TRL's GOLDTrainer on the same file."""

from __future__ import annotations

from typing import Any

from trainwright.config.keys.uses import KWARGS, refused
from trainwright.config.options import DistillOptions, GOLDOptions, TextOptions
from trainwright.config.schema import TrainingConfig
from trainwright.methods.trl.gkd import CONVERSED, TrlGKD, taught


class TrlGOLD(TrlGKD):
    """`trl.experimental.gold.GOLDTrainer`; the teacher may have another tokenizer."""

    options = GOLDOptions
    lines = (
        *CONVERSED,
        refused(KWARGS, "max_new_tokens", "GOLD calls it max_completion_length", "max_completion_length"),
        refused(KWARGS, "seq_kd", "GOLD does not read it", "leave it out"),
    )
    takes = ("training.gold",)

    @property
    def minimises(self) -> type[TextOptions]:
        """The settings that say what it minimises."""
        return DistillOptions

    def upstream(self, config: TrainingConfig) -> Any:
        """Return `trl.experimental.gold.GOLDTrainer`."""
        from trainwright.upstream.build import Wanted, build_trl

        arguments = {"teacher_model_init_kwargs": None}
        return build_trl(config, self, Wanted("GOLD", taught(self, config), arguments, module="trl.experimental.gold"))
