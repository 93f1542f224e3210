"""Kahneman-Tversky optimisation: completions that are each good or bad."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainwright.config.keys import uses
from trainwright.config.keys.lines import Line
from trainwright.config.keys.uses import KWARGS, no_effect, refused
from trainwright.config.methods import Fault, recipe
from trainwright.config.options import KTO_LOSSES, KTOOptions
from trainwright.config.reading.validation import text_faults
from trainwright.config.schema import TrainingConfig
from trainwright.data.sources.formats import Format
from trainwright.errors import DataError, did_you_mean
from trainwright.methods.referenced import REFERENCE, Referenced, synced_faults
from trainwright.tasks.language.method import Part, Text

if TYPE_CHECKING:
    from trainwright.args.training import TrainingArguments
    from trainwright.data.text.tokenize import TextRules
    from trainwright.objectives.objective import Objective
    from trainwright.session.session import Session


def diverges(config: TrainingConfig) -> bool:
    """Whether completions go to other prompts, for the divergence that a loss is measured by."""
    return bool(config.training.trainer_kwargs.get("loss_type", "kto") == "kto")


def _has_neighbours(config: TrainingConfig) -> bool:
    """Whether a step has rows that a completion can be set beside, on all processes together; with TRL's rule a
    micro-batch."""
    params = config.training
    if not diverges(config) or params.per_device_train_batch_size > 1:
        return True
    return not params.trainer_kwargs.get("trl_compatible") and (
        params.gradient_accumulation_steps > 1 or uses.of_several_processes()
    )


JUDGED: tuple[Line, ...] = (
    *uses.no_supervision("of a completion all is learned", "completions are not packed",
                         "completions stand in 'completion'"),
    refused("training", "label_smoothing_factor", "judgements have no classes", "leave it out"),
    uses.no_streams("data.train"),
    uses.no_streams("data.validation"),
    *REFERENCE,
)  # fmt: skip


class KTO(Referenced):
    """Our Trainer on judged completions, or on pairs of which one is the better, measured against a reference."""

    title = "Kahneman-Tversky optimisation"
    options = KTOOptions
    lines: tuple[Line, ...] = (
        *JUDGED,
        refused("training", "per_device_train_batch_size", "steps of two rows or more, for a completion is set beside "
                "the prompt of another row", "gradient_accumulation_steps: 2", used_if=_has_neighbours),
        refused(KWARGS, "precompute_ref_log_probs", "loss_type: apo_zero_unpaired, for with kto other "
                "prompts are judged in every pass", used_if=lambda c: not diverges(c)),
        refused(KWARGS, "trl_compatible", "training.train_sampling_strategy: sequential, and no auto_find_batch_size, "
                "as TRL has it",
                used_if=lambda c: c.training.train_sampling_strategy == "sequential"
                and not c.training.auto_find_batch_size),
        no_effect(KWARGS, "padding_free", "rows are flattened where that is quicker"),
    )  # fmt: skip
    accepts: tuple[Format, ...] = (Format.COMPLETION, Format.MESSAGES, Format.PREFERENCE)
    learns_from = "'prompt', 'completion' and 'label', 'messages' and 'label', or 'chosen' and 'rejected'"
    columns = ("label",)

    def example(self) -> str:
        """Return recipes/kto.yaml."""
        return recipe("kto")

    def faults(self, options: KTOOptions) -> Iterator[Fault]:
        """Yield a loss that there is not, and numbers out of their range."""
        if options.loss_type not in KTO_LOSSES:
            near = did_you_mean(options.loss_type, KTO_LOSSES).strip() or f"known: {', '.join(KTO_LOSSES)}"
            yield f"{KWARGS}.loss_type", f"loss_type '{options.loss_type}' is not known", near
        if options.beta <= 0:
            yield f"{KWARGS}.beta", f"beta {options.beta} is not above 0", "0.1"
        for name in ("desirable_weight", "undesirable_weight"):
            if getattr(options, name) < 0:
                yield f"{KWARGS}.{name}", f"{name} {getattr(options, name)} is negative", ""
        if options.desirable_weight == options.undesirable_weight == 0:
            yield f"{KWARGS}.desirable_weight", "both weights are 0, so there is nothing to learn", "1.0"
        yield from synced_faults(options)
        yield from text_faults(options)

    def format_of(self, columns: Sequence[str], text_column: str) -> Format:
        """Return what rows are: judged completions, or pairs.

        Raises:
            DataError: neither.
        """
        found = super().format_of(columns, text_column)
        if found in (Format.COMPLETION, Format.MESSAGES) and "label" not in columns:
            raise DataError(
                f"{self.name} learns from {self.learns_from}, but the data has the columns {', '.join(columns)}. Say "
                "which one is the judgement: column_map: {good: label}."
            )
        return found

    def check_row(self, row: Mapping[str, Any], number: int, found: Format, text_column: str) -> None:
        """Raise a DataError where a row has no completion, or no judgement."""
        super().check_row(row, number, found, text_column)
        if found is not Format.PREFERENCE and row.get("label") not in (True, False):
            raise DataError(f"Row {number}: 'label' is {row.get('label')!r}; true (desirable) or false is expected.")

    def arranged(self, table: Any, options: KTOOptions) -> Any:
        """Return judged completions: of a pair both, one after the other."""
        from trainwright.data.text.unpaired import TRLS_BLOCK, unpaired

        return unpaired(table, TRLS_BLOCK if options.trl_compatible else None)

    def trained_rows(self, config: TrainingConfig, rows: int, columns: Sequence[str]) -> int:
        """Return twice the rows where these are pairs."""
        return 2 * rows if "rejected" in columns else rows

    def rules(self, config: TrainingConfig, options: KTOOptions, tokenizer: Any, found: Format) -> TextRules:
        """Return how completions are tokenised."""
        from trainwright.data.text.unpaired import UnpairedRules

        settings = config.model.chat_template_kwargs
        return UnpairedRules(tokenizer, found, max_length=options.max_length, template_settings=settings)

    def collator(self, text: Text) -> Any:
        """Return what makes batches of completions; say where good and bad ones weigh too differently."""
        from trainwright.data.text.unpaired import UnpairedBatch

        text.notes.extend(_unbalanced(text))
        return UnpairedBatch(text.tokenizer.pad_token_id, text.multiple, text.options.max_length)

    def parts(self, row: dict[str, Any]) -> list[Part]:
        """Return prompt and completion, of which the completion is learned, by its judgement."""
        import torch

        ids = torch.cat([row["prompt_ids"], row["completion_ids"]])
        learned = torch.arange(len(ids)) >= len(row["prompt_ids"])
        return [Part("desirable" if int(row["label"]) else "undesirable", ids, learned)]

    def objective(self, model: Any, args: TrainingArguments, text: Text) -> Objective:
        """Return the loss of judged completions; the reference is given to it by `connect`."""
        from trainwright.objectives.kto import KTOLoss

        return KTOLoss(text.options)

    def connect(self, session: Session, config: TrainingConfig, text: Text, kept: Any) -> None:
        """Give the objective its reference, and rows their neighbours where these are TRL's."""
        from trainwright.data.text.unpaired import Neighbours

        super().connect(session, config, text, kept)
        if text.options.trl_compatible and text.options.loss_type == "kto":
            size = session.args.per_device_train_batch_size
            session.train_dataset = Neighbours(text.train, size)
            if text.evaluation is not None:
                session.eval_dataset = Neighbours(text.evaluation, size)


def _unbalanced(text: Text) -> Iterator[str]:
    """Yield a sentence where the weights times the numbers of good and bad rows are not within 1 to 4/3 of each other
    (arXiv:2402.01306, equation 8)."""
    labels = text.train.values("label")
    good, bad = int(labels.sum()), int((1 - labels).sum())
    options = text.options
    one, other = good * options.desirable_weight, bad * options.undesirable_weight
    if good and bad and not other <= one * (1 + 1e-9) <= 4 / 3 * other * (1 + 2e-9):
        yield (
            f"{good} completions are desirable and {bad} undesirable; by their paper desirable_weight is best from "
            f"{other / good:.3g} to {4 / 3 * other / good:.3g} with undesirable_weight {options.undesirable_weight:g}."
        )
    if not good or not bad:
        kind = "desirable" if good else "undesirable"
        yield f"All completions are {kind}; with nothing to tell them from, the model learns little."
