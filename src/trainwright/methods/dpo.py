"""Direct preference optimisation: of two answers, which is the better one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainwright.config.keys import uses
from trainwright.config.keys.lines import Line
from trainwright.config.keys.uses import KWARGS, no_effect, refused
from trainwright.config.methods import Fault, recipe
from trainwright.config.options import DIVERGENCES, DIVERGING, LOSSES, DPOOptions
from trainwright.config.reading.validation import text_faults
from trainwright.config.schema import TrainingConfig
from trainwright.data.sources.formats import Format
from trainwright.errors import did_you_mean
from trainwright.methods.referenced import REFERENCE, Referenced, synced_faults
from trainwright.tasks.language.method import Part, Text

if TYPE_CHECKING:
    from trainwright.args.training import TrainingArguments
    from trainwright.data.text.tokenize import TextRules
    from trainwright.objectives.objective import Objective

_SMOOTHED = ("exo_pair", "robust", "aot", "aot_unpaired")  # losses with label_smoothing


def _losses(config: TrainingConfig) -> list[str]:
    given = config.training.trainer_kwargs.get("loss_type") or "sigmoid"
    return [given] if isinstance(given, str) else list(given)


def _all_diverge(config: TrainingConfig) -> bool:
    measured = [name for name in _losses(config) if name != "sft"]
    return bool(measured) and all(name in DIVERGING for name in measured)


PAIRS: tuple[Line, ...] = (
    *uses.no_supervision("of a pair both answers are learned", "pairs are not packed",
                         "pairs stand in 'chosen' and 'rejected'"),
    refused("training", "label_smoothing_factor", "pairs have no classes",
            "training.trainer_kwargs.label_smoothing is that of preferences"),
    refused(KWARGS, "f_divergence_type", f"a loss_type that reads it ({', '.join(DIVERGING)})", used_if=_all_diverge),
    refused(KWARGS, "beta", "another loss_type than sft", used_if=lambda c: set(_losses(c)) != {"sft"}),
    no_effect(KWARGS, "f_alpha_divergence_coef", "f_divergence_type: alpha_divergence",
              used_if=lambda c: c.training.trainer_kwargs.get("f_divergence_type") == "alpha_divergence"),
    refused(KWARGS, "label_smoothing", f"loss_type: {' or '.join(_SMOOTHED)}",
            used_if=lambda c: any(one in _SMOOTHED for one in _losses(c))),
    no_effect(KWARGS, "discopop_tau", "loss_type: discopop", used_if=lambda c: "discopop" in _losses(c)),
    *REFERENCE,
)  # fmt: skip


class DPO(Referenced):
    """Our Trainer on pairs of answers, measured against a reference."""

    title = "preference optimisation"
    options = DPOOptions
    lines: tuple[Line, ...] = (
        *PAIRS,
        uses.no_streams("data.train"),
        uses.no_streams("data.validation"),
        no_effect(KWARGS, "padding_free", "pairs are flattened where that is quicker"),
    )
    accepts = (Format.PREFERENCE,)
    learns_from = "'chosen' and 'rejected'"
    sequences = 2

    def example(self) -> str:
        """Return recipes/dpo.yaml."""
        return recipe("dpo")

    def faults(self, options: DPOOptions) -> Iterator[Fault]:
        """Yield losses that there are not, and numbers out of their range."""
        for name in options.losses:
            if name not in LOSSES:
                near = did_you_mean(name, LOSSES).strip() or f"known: {', '.join(LOSSES)}"
                yield f"{KWARGS}.loss_type", f"loss_type '{name}' is not known", near
        if options.loss_weights is not None and len(options.loss_weights) != len(options.losses):
            yield (f"{KWARGS}.loss_weights", f"{len(options.loss_weights)} loss_weights for {len(options.losses)} "
                   "losses", "give one for each loss_type")  # fmt: skip
        if options.f_divergence_type not in DIVERGENCES:
            near = did_you_mean(options.f_divergence_type, DIVERGENCES).strip() or f"known: {', '.join(DIVERGENCES)}"
            yield f"{KWARGS}.f_divergence_type", f"f_divergence_type '{options.f_divergence_type}' is not known", near
        if options.beta < 0:
            yield f"{KWARGS}.beta", f"beta {options.beta} is negative", ""
        smoothing, limit = options.label_smoothing, 0.5 if "robust" in options.losses else 1.0
        if not 0 <= smoothing < limit:
            yield f"{KWARGS}.label_smoothing", f"label_smoothing {smoothing} is not from 0 to below {limit}", ""
        if "exo_pair" in options.losses and smoothing == 0:
            what = "exo_pair takes the logarithm of label_smoothing, so it must be above 0"
            yield f"{KWARGS}.label_smoothing", what, "1e-3"
        if options.ld_alpha is not None and not 0 <= options.ld_alpha <= 1:
            yield f"{KWARGS}.ld_alpha", f"ld_alpha {options.ld_alpha:g} is not from 0 to 1", ""
        size = options.precompute_ref_batch_size
        if size is not None and size < 1:
            what = f"precompute_ref_batch_size {size} is less than one pair"
            yield f"{KWARGS}.precompute_ref_batch_size", what, ""
        yield from synced_faults(options)
        yield from text_faults(options)

    def rules(self, config: TrainingConfig, options: DPOOptions, tokenizer: Any, found: Format) -> TextRules:
        """Return how pairs are tokenised."""
        from trainwright.data.text.tokenize import PairRules

        settings = config.model.chat_template_kwargs
        return PairRules(tokenizer, found, max_length=options.max_length, template_settings=settings)

    def collator(self, text: Text) -> Any:
        """Return what makes batches of pairs."""
        from trainwright.data.text.text_collators import PairBatch

        return PairBatch(text.tokenizer.pad_token_id, text.multiple)

    def parts(self, row: dict[str, Any]) -> list[Part]:
        """Return prompt and answer, of which the answer is learned: of the better one and of the worse."""
        import torch

        prompt = row["prompt_ids"]
        return [
            Part(
                name,
                torch.cat([prompt, row[f"{name}_ids"]]),
                torch.cat([torch.zeros_like(prompt), torch.ones_like(row[f"{name}_ids"])]).bool(),
            )
            for name in ("chosen", "rejected")
        ]

    def objective(self, model: Any, args: TrainingArguments, text: Text) -> Objective:
        """Return the loss of pairs; the reference is given to it by `connect`."""
        from trainwright.objectives.preference import PreferenceLoss

        return PreferenceLoss(text.options)
