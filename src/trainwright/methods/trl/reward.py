"""TRL's RewardTrainer on the same file."""

from __future__ import annotations

from typing import Any

from trainwright.config.keys.uses import KWARGS, no_effect, refused
from trainwright.config.schema import TrainingConfig
from trainwright.methods.reward import SCORED, Reward


class TrlReward(Reward):
    """`trl.RewardTrainer`; TRL tokenises the rows itself."""

    library, package, reads_our_rows = "TRL", ("trl", "trl"), False
    lines = (
        *SCORED,
        refused("training", "train_sampling_strategy", "TRL's pairs have no lengths to group by",
                "random or sequential, or trainer_type REWARD", fine=("random", "sequential")),
        refused(KWARGS, "padding_free", "TRL's rows are padded", "leave it out", fine=(False,)),
        no_effect(KWARGS, "trl_compatible", "TRL does as TRL does"),
    )  # fmt: skip

    def upstream(self, config: TrainingConfig) -> Any:
        """Return `trl.RewardTrainer`."""
        from trainwright.models.load import Kind
        from trainwright.upstream.build import Wanted, build_trl

        return build_trl(config, self, Wanted("Reward", kind=Kind(self.estimated, {"num_labels": 1})))
