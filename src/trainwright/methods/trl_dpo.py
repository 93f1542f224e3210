"""TRL's DPOTrainer on the same file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainwright.config.keys.uses import KWARGS, no_effect, refused
from trainwright.config.schema import TrainingConfig
from trainwright.methods.dpo import DPO, PAIRS


def _has_reference(config: TrainingConfig) -> bool:
    return not config.training.use_peft and not config.training.trainer_kwargs.get("precompute_ref_log_probs")


class TrlDPO(DPO):
    """`trl.DPOTrainer`; TRL tokenises the rows itself."""

    library, package, reads_our_rows = "TRL", ("trl", "trl"), False
    lines = (
        *PAIRS,
        refused("training", "train_sampling_strategy", "TRL's pairs have no lengths to group by",
                "random or sequential, or trainer_type DPO", fine=("random", "sequential")),
        refused(KWARGS, "ref_model", "the reference is the start of the run", "use trainer_type DPO"),
        refused(KWARGS, "sync_ref_model", "a reference that is a model (no training.use_peft, no "
                "precompute_ref_log_probs)", used_if=_has_reference),
        no_effect(KWARGS, "ref_model_mixup_alpha ref_model_sync_steps", "sync_ref_model: true",
                  used_if=lambda c: c.training.trainer_kwargs.get("sync_ref_model"), switch=f"{KWARGS}.sync_ref_model"),
        refused("peft", "lora_bias", "TRL's reference is a second adapter, beside which none may have biases", "none"),
    )  # fmt: skip

    def upstream(self, config: TrainingConfig) -> Any:
        """Return `trl.DPOTrainer`, its reference the start of the run."""
        from trainwright.upstream.build import build_trl

        def reference(model: Any, again: Callable[[], Any]) -> dict[str, Any]:
            model.config._name_or_path = model.config._name_or_path or "model"
            return {} if config.training.use_peft else {"ref_model": again()}

        return build_trl(config, self, "DPO", reference)
