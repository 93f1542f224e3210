"""TRL's GKDTrainer on the same file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from trainwright.config.keys import uses
from trainwright.config.keys.lines import Line
from trainwright.config.keys.uses import KWARGS, no_effect, refused
from trainwright.config.methods import Fault
from trainwright.config.reading.validation import text_faults
from trainwright.config.schema import TrainingConfig
from trainwright.data.sources.formats import Format
from trainwright.methods.distill import TAUGHT, Distill, teacher_faults

_OWN = "TRL makes its own batches of conversations"
CONVERSED: tuple[Line, ...] = (
    *TAUGHT,
    *uses.no_supervision("of a conversation the last answer is learned", "conversations are not packed",
                         "conversations stand in 'messages'"),
    refused(KWARGS, "packing eval_packing packing_strategy padding_free pad_to_multiple_of", _OWN, "leave it out",
            fine=(False,)),
    refused(KWARGS, "completion_only_loss assistant_only_loss dataset_text_field dataset_kwargs shuffle_dataset", _OWN,
            "leave it out", fine=(False,)),
    no_effect(KWARGS, "dataset_num_proc", "nothing is tokenised before"),
)  # fmt: skip


class TrlGKD(Distill):
    """`trl.experimental.gkd.GKDTrainer`; half of what is learned the student writes, unless `lmbda` says otherwise."""

    library, package, reads_our_rows = "TRL", ("trl", "trl"), False
    lines = CONVERSED
    accepts = (Format.MESSAGES,)
    learns_from = "messages"
    takes = ("training.gkd",)

    def faults(self, options: Any) -> Iterator[Fault]:
        """Yield what is wrong with the teacher, and with settings of text."""
        yield from teacher_faults(options)
        yield from text_faults(options)

    def not_the_same(self, config: TrainingConfig) -> Iterator[str]:
        """Yield whose completions are learned."""
        from trainwright.config.reading.read import options_of

        if options_of(config, self.options).get("lmbda") != 0:
            yield f"{self.name} learns completions of the student's own, too, unless lmbda is 0"

    def upstream(self, config: TrainingConfig) -> Any:
        """Return `trl.experimental.gkd.GKDTrainer`."""
        from trainwright.upstream.build import Wanted, build_trl

        wanted = Wanted("GKD", taught(self, config), {"teacher_model_init_kwargs": None}, module="trl.experimental.gkd")
        return build_trl(config, self, wanted)


def taught(method: Distill, config: TrainingConfig) -> Callable[[Any, Callable[[], Any]], dict[str, Any]]:
    """Return what gives TRL's constructor its teacher: loaded here, for TRL asks for more than a name."""
    from trainwright.config.reading.read import options_of

    options = method.options(**options_of(config, method.options))

    def teacher(model: Any, again: Callable[[], Any]) -> dict[str, Any]:
        from transformers import AutoModelForCausalLM

        given = dict(options.teacher_model_init_kwargs or {})
        given["dtype"] = given.pop("torch_dtype", given.get("dtype", "auto"))
        return {"teacher_model": AutoModelForCausalLM.from_pretrained(options.teacher_model_name_or_path, **given)}

    return teacher
