"""Group-relative policy optimisation: completions of a prompt are worth what they earn more than their group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trainwright.config.keys import uses
from trainwright.config.keys.lines import Line
from trainwright.config.keys.uses import KWARGS, refused
from trainwright.config.methods import Fault, find, recipe
from trainwright.config.policy_options import (
    CORRECTIONS,
    KL_ESTIMATORS,
    LEVELS,
    POLICY_LOSSES,
    SCALES,
    GRPOOptions,
    PolicyOptions,
)
from trainwright.config.reading.validation import text_faults
from trainwright.config.schema import DatasetSplitParams, TrainingConfig
from trainwright.data.sources.formats import Format
from trainwright.errors import ConfigError, DataError, did_you_mean
from trainwright.methods.referenced import REFERENCE, Referenced, synced_faults
from trainwright.tasks.language.method import LanguageMethod, Part, Text

if TYPE_CHECKING:
    from trainwright.args.training import TrainingArguments
    from trainwright.data.text.tokenize import TextRules
    from trainwright.objectives.objective import Objective
    from trainwright.session.session import Session


def _one_of(name: str, value: str, known: Sequence[str]) -> Iterator[Fault]:
    if value not in known:
        near = did_you_mean(value, known).strip() or f"known: {', '.join(known)}"
        yield f"{KWARGS}.{name}", f"{name} '{value}' is not known", near


def _measures(config: TrainingConfig) -> bool:
    options: Any = find(str(config.training.trainer_type)).options
    return bool(config.training.trainer_kwargs.get("beta", options.beta))


class GRPO(Referenced):
    """Our Trainer on prompts, after which the model writes, and on rewards of what it wrote."""

    title = "reinforcement learning"
    options: type[PolicyOptions] = GRPOOptions
    # of places; the prompts have an order of their own
    arguments = MappingProxyType({"train_sampling_strategy": "sequential"})
    lines: tuple[Line, ...] = (
        *LanguageMethod.lines,
        *(line for line in REFERENCE if not line.keys[0].endswith("precompute_ref_batch_size")),
        refused(KWARGS, "sync_ref_model", "a reference (beta above 0)", used_if=_measures),
        refused(KWARGS, "max_length", "prompts are never cut", "leave it out"),
        refused(KWARGS, "padding_free", "completions are flattened where that is quicker", "leave it out"),
        refused("training", "train_sampling_strategy", "prompts are shuffled in every pass",
                f"{KWARGS}.shuffle_dataset: false keeps their order", fine=("random", "sequential")),
        uses.no_streams("data.train"),
        uses.no_streams("data.validation"),
    )  # fmt: skip
    accepts = (Format.PROMPT,)
    learns_from = "'prompt', and columns that the rewards take"
    columns = ("answer", "task", "pattern", "schema", "tests")

    def example(self) -> str:
        """Return recipes/grpo.yaml."""
        return recipe("grpo")

    def faults(self, options: Any) -> Iterator[Fault]:
        """Yield losses that there are not, numbers out of their range, and rewards that cannot be called."""
        yield from self.own_faults(options)
        yield from completion_faults(options)
        yield from reward_faults(options)
        yield from synced_faults(options)
        yield from text_faults(options)

    def own_faults(self, options: Any) -> Iterator[Fault]:
        """Yield what is wrong with the settings of this method alone."""
        yield from _one_of("loss_type", options.loss_type, POLICY_LOSSES)
        yield from _one_of("importance_sampling_level", options.importance_sampling_level, LEVELS)
        yield from _one_of("scale_rewards", options.scale_rewards, SCALES)
        yield from _one_of("kl_estimator", options.kl_estimator, KL_ESTIMATORS)
        if options.sampler_correction is not None:
            yield from _one_of("sampler_correction", options.sampler_correction, CORRECTIONS)
        if not 0 < options.top_entropy_quantile <= 1:
            what = f"top_entropy_quantile {options.top_entropy_quantile:g} is not above 0 and at most 1"
            yield f"{KWARGS}.top_entropy_quantile", what, "0.2 trains on a fifth of the tokens"
        if options.delta is not None and options.delta <= 1 + options.upper:
            what = f"delta {options.delta:g} is within what is clipped anyway, up to {1 + options.upper:g}"
            yield f"{KWARGS}.delta", what, "a larger one"

    def format_of(self, columns: Sequence[str], text_column: str) -> Format:
        """Return that rows are prompts.

        Raises:
            DataError: there is no column `prompt`.
        """
        if "prompt" in columns:
            return Format.PROMPT
        raise DataError(
            f"{self.name} writes after prompts, but the data has the columns {', '.join(columns)} and no 'prompt'. Say "
            "which it is: column_map: {question: prompt}."
        )

    def check_data(self, config: TrainingConfig, options: Any, formats: Sequence[Format]) -> None:
        """Raise a ConfigError where the completions of a generation make no whole groups."""
        from trainwright.reinforcement.stage import size_of
        from trainwright.tasks.language.build import arguments

        group = options.num_generations
        size = size_of(options, arguments(config.training), 1)
        if size % group:
            raise ConfigError(
                f"A generation of {size} completions (per_device_train_batch_size x steps_per_generation, or "
                f"generation_batch_size) does not divide into groups of num_generations={group}."
            )

        params = config.training
        if params.load_best_model_at_end or params.save_strategy == "best":
            _check_metric(self.name, params.metric_for_best_model or "loss", options)

    def trained_rows(self, config: TrainingConfig, rows: int, columns: Sequence[str]) -> int:
        """Return how many completions a pass trains on, as often as it does."""
        from trainwright.config.reading.read import options_of
        from trainwright.reinforcement.stage import size_of
        from trainwright.tasks.language.build import arguments

        options = self.options(**options_of(config, self.options))
        size = size_of(options, arguments(config.training), 1)
        return rows // max(1, size // options.num_generations) * size * options.num_iterations

    def try_rows(self, config: TrainingConfig, text: Text, table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raise a ConfigError or DataError where the first prompts cannot be written after, or not be judged."""
        from trainwright.reinforcement.trying import try_prompts

        try_prompts(config.model, text.options, text.tokenizer, table.column_names, rows)

    def rules(self, config: TrainingConfig, options: Any, tokenizer: Any, found: Format) -> TextRules:
        """Return how prompts are tokenised."""
        from trainwright.data.text.prompts import PromptRules

        return PromptRules(tokenizer, found, max_length=None, template_settings=config.model.chat_template_kwargs)

    def collator(self, text: Text) -> Any:
        """Return what makes micro-batches of places, which the stage replaces by completions."""
        from trainwright.reinforcement.schedule import as_places

        return as_places

    def parts(self, row: dict[str, Any]) -> list[Part]:
        """Return the prompt, of which nothing is learned."""
        import torch

        return [Part("prompt", row["prompt_ids"], torch.zeros_like(row["prompt_ids"]).bool())]

    def before_adapters(self, model: Any, config: TrainingConfig, text: Text) -> Any:
        """Return a copy of the model, where it is the reference and will not be had by switching adapters off."""
        return super().before_adapters(model, config, text) if text.options.beta else None

    def objective(self, model: Any, args: TrainingArguments, text: Text) -> Objective:
        """Return the loss of completions."""
        from trainwright.objectives.policy.objective import PolicyLoss

        return PolicyLoss(text.options)

    def connect(self, session: Session, config: TrainingConfig, text: Text, kept: Any) -> None:
        """Give the objective its reference, and put the stage between the loader and the step."""
        from trainwright.models.load import dropout_settings
        from trainwright.reinforcement.connecting import connect
        from trainwright.session.model_setup import change_configuration

        if text.options.beta:
            super().connect(session, config, text, kept)
        elif text.options.disable_dropout:
            change_configuration(session, **dropout_settings(session.model))
        rows = _rows(config.data.train, config.training.seed, text.train)
        held_out = None
        if text.evaluation is not None:
            held_out = text.evaluation, _rows(config.data.validation, config.training.seed, text.evaluation)
        connect(session, text.options, text.train, rows, text.tokenizer, text.multiple, held_out)

    def further_weights(self, config: TrainingConfig, base: int, weights: int, named: Callable[[str], int]) -> int:
        """Return the bytes of the reference, where there is one."""
        return super().further_weights(config, base, weights, named) if _measures(config) else 0


def _rows(split: DatasetSplitParams, seed: int, prompts: Any) -> Any:
    """Return the rows of prompts, for the rewards."""
    from trainwright.data import mixture

    rows = mixture.read(split, seed)
    if len(rows) != len(prompts):
        raise DataError(f"{len(rows) - len(prompts)} prompts of the data are empty. Leave those rows out.")
    return rows


def _check_metric(method: str, metric: str, options: PolicyOptions) -> None:
    """Raise a ConfigError where the best model is chosen by what is not measured on prompts that are held out."""
    from trainwright.reinforcement.held_out import names_of
    from trainwright.rewards.functions import of_names

    functions = [one.name for one in of_names(options.functions, options.reward_function_kwargs)]
    known = names_of(functions, options)
    if metric.removeprefix("eval_") not in known:
        raise ConfigError(
            f"{method} measures no '{metric.removeprefix('eval_')}' on prompts that are held out, by which the best "
            f"model would be chosen. Give training.metric_for_best_model: eval_reward; measured are {', '.join(known)}."
        )


def completion_faults(options: PolicyOptions) -> Iterator[Fault]:
    """Yield what is wrong with the settings of completions, and of how often they are trained on."""
    from trainwright.reinforcement.sampling import sampling_of

    try:
        sampling_of(options)
    except ConfigError as error:
        what = str(error).rstrip(".").replace("max_new_tokens", "max_completion_length")
        yield f"{KWARGS}.{what.split()[0]}", what, ""
    yield from _evaluation_faults(options)
    if options.temperature == 0:
        what = "with temperature 0 all completions of a prompt would be the same, and nothing would be learned"
        yield f"{KWARGS}.temperature", what, "1.0"
    if options.num_generations < 2:
        what = f"num_generations {options.num_generations} leaves nothing to compare a completion with"
        yield f"{KWARGS}.num_generations", what, "2 or more"
    if options.generation_batch_size is not None and options.steps_per_generation is not None:
        what = "generation_batch_size and steps_per_generation say one thing"
        yield f"{KWARGS}.generation_batch_size", what, "give one of them"
    for name in ("num_iterations", "steps_per_generation", "generation_batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            yield f"{KWARGS}.{name}", f"{name} {value} is less than 1", ""
    if not 0 < options.epsilon < 1 or options.upper <= 0:
        yield f"{KWARGS}.epsilon", "epsilon is not between 0 and 1, or epsilon_high not above 0", ""
    if options.beta < 0:
        yield f"{KWARGS}.beta", f"beta {options.beta:g} is negative", ""


def _evaluation_faults(options: PolicyOptions) -> Iterator[Fault]:
    """Yield what is wrong with the settings of completions of prompts that are held out."""
    count, temperature = options.num_generations_eval, options.temperature_eval
    if temperature is not None and not 0 <= temperature < float("inf"):
        yield f"{KWARGS}.temperature_eval", f"temperature_eval {temperature:g} is not 0 or above", ""
    if count is not None and count < 1:
        yield f"{KWARGS}.num_generations_eval", f"num_generations_eval {count} is less than 1", ""
    elif temperature == 0 and (count or 1) > 1:
        what = f"with temperature_eval 0 all {count} completions of a prompt would be the same"
        yield f"{KWARGS}.num_generations_eval", what, "1"


def reward_faults(options: PolicyOptions) -> Iterator[Fault]:
    """Yield what is wrong with the rewards, and those that cannot be called."""
    from trainwright.rewards.functions import of_names

    if options.reward_timeout <= 0 or options.reward_processes < 0:
        yield f"{KWARGS}.reward_timeout", "reward_timeout is not above 0, or reward_processes negative", ""
    if not options.functions:
        yield f"{KWARGS}.reward_functions", "there is no reward", "a verifier's name, or module:name of a function"
    if options.reward_weights is not None and len(options.reward_weights) != len(options.functions):
        told = f"{len(options.reward_weights)} reward_weights for {len(options.functions)} reward_functions"
        yield f"{KWARGS}.reward_weights", told, "one for each"
    try:
        of_names(options.functions, options.reward_function_kwargs)
    except ConfigError as error:
        yield f"{KWARGS}.reward_functions", str(error).rstrip("."), ""
