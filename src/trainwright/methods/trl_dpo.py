"""TRL's DPOTrainer on the same file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainwright.config.keys.uses import KWARGS, refused
from trainwright.config.schema import TrainingConfig
from trainwright.methods.dpo import DPO, PAIRS


class TrlDPO(DPO):
    """`trl.DPOTrainer`; TRL tokenises the rows itself."""

    library, package, reads_our_rows = "TRL", ("trl", "trl"), False
    lines = (
        *PAIRS,
        refused("training", "train_sampling_strategy", "TRL's pairs have no lengths to group by",
                "random or sequential, or trainer_type DPO", fine=("random", "sequential")),
        refused(KWARGS, "ref_model", "the reference is the start of the run", "use trainer_type DPO"),
        refused("peft", "lora_bias", "TRL's reference is a second adapter, beside which none may have biases", "none"),
    )  # fmt: skip

    def upstream(self, config: TrainingConfig) -> Any:
        """Return `trl.DPOTrainer`, its reference the start of the run."""
        from trainwright.upstream.build import Wanted, build_trl

        def reference(model: Any, again: Callable[[], Any]) -> dict[str, Any]:
            model.config._name_or_path = model.config._name_or_path or "model"
            return {} if config.training.use_peft else {"ref_model": again()}

        return build_trl(config, self, Wanted("DPO", others=reference))
