"""TRL's KTOTrainer on the same file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from trainwright.config.keys.uses import KWARGS, no_effect, refused
from trainwright.config.schema import TrainingConfig
from trainwright.data.sources.formats import Format
from trainwright.methods.kto import JUDGED, KTO, diverges


class TrlKTO(KTO):
    """`trl.KTOTrainer`; TRL tokenises the rows itself, and sets completions beside other prompts by their order."""

    accepts = (Format.COMPLETION, Format.PREFERENCE)
    learns_from = "'prompt', 'completion' and 'label', or 'chosen' and 'rejected'"
    library, package, reads_our_rows = "TRL", ("trl", "trl"), False
    lines = (
        *JUDGED,
        refused("training", "train_sampling_strategy", "TRL's rows are read in their order",
                "random or sequential, or trainer_type KTO", fine=("random", "sequential")),
        refused("training", "per_device_train_batch_size", "micro-batches of two rows or more, for a completion is set "
                "beside the prompt of another one", "2, or loss_type: apo_zero_unpaired",
                used_if=lambda c: not diverges(c) or c.training.per_device_train_batch_size > 1),
        refused(KWARGS, "ref_model", "the reference is the start of the run", "use trainer_type KTO"),
        refused(KWARGS, "padding_free", "TRL's rows are padded", "leave it out", fine=(False,)),
        no_effect(KWARGS, "trl_compatible", "TRL does as TRL does"),
        refused("peft", "lora_bias", "TRL's reference is a second adapter, beside which none may have biases", "none"),
    )  # fmt: skip

    def not_the_same(self, config: TrainingConfig) -> Iterator[str]:
        """Yield what its order is, where ours has another."""
        if not config.training.trainer_kwargs.get("trl_compatible"):
            yield f"{self.name} reads rows in their order; trl_compatible: true and sequential rows let KTO do so too"

    def upstream(self, config: TrainingConfig) -> Any:
        """Return `trl.KTOTrainer`, its reference the start of the run."""
        from trainwright.upstream.build import Wanted, build_trl

        def reference(model: Any, again: Callable[[], Any]) -> dict[str, Any]:
            model.config._name_or_path = model.config._name_or_path or "model"
            return {} if config.training.use_peft else {"ref_model": again()}

        wanted = Wanted("KTO", arguments={"train_sampling_strategy": "sequential"}, others=reference)
        return build_trl(config, self, wanted)
