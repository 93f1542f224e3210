"""The stage of a run, from what its file says."""

from __future__ import annotations

from typing import Any

from trainwright.config.policy_options import PolicyOptions
from trainwright.data.sampling.plan import Order
from trainwright.errors import ConfigError
from trainwright.generation.sampler import Sampler
from trainwright.generation.sampling import Sampling
from trainwright.models.inspect import base_model, limits
from trainwright.objectives.policy.objective import PolicyLoss
from trainwright.reinforcement.held_out import HeldOut, group_of
from trainwright.reinforcement.sampling import sampling_of
from trainwright.reinforcement.schedule import Places, Schedule
from trainwright.reinforcement.stage import RolloutStage, size_of
from trainwright.reinforcement.trying import check_ends, check_lengths, check_rewards
from trainwright.rewards.functions import of_names, shadowed
from trainwright.rewards.pool import Pool
from trainwright.session.session import Session


def connect(
    session: Session,
    options: PolicyOptions,
    prompts: Any,
    rows: Any,
    tokenizer: Any,
    multiple: int | None,
    held_out: tuple[Any, Any] | None = None,
) -> RolloutStage:
    """Put the stage between the loader and the step of a Trainer.

    Args:
        session: its parts; the training data is replaced by places in it.
        options: of the method.
        prompts: rows with `prompt_ids`.
        rows: the same rows as they were read, for the rewards.
        tokenizer: of the model.
        multiple: what the width of micro-batches is a multiple of, or None.
        held_out: prompts and rows that evaluations are on, or None.

    Raises:
        ConfigError: generations cannot be made of the prompts, no token ends a completion, or prompts and completions
            do not fit into the model.
    """
    schedule = schedule_of(session, options, len(prompts))
    _check_prompts(session.model, options, prompts)
    check_rewards(options, rows.column_names)
    objective: Any = session.objective
    assert isinstance(objective, PolicyLoss)
    places = Places(schedule, prompts)
    stage = RolloutStage(
        session=session,
        options=options,
        objective=objective,
        places=places,
        prompts=prompts,
        rows=rows,
        rollouts=sampler_of(session.model, sampling_of(options), tokenizer),
        pool=Pool(
            of_names(options.functions, options.reward_function_kwargs, str(session.strategy.device)),
            options.reward_processes,
            options.reward_timeout,
        ),
        pad=tokenizer.pad_token_id,
        decode=lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
        multiple=multiple or 1,
        seed=session.args.seed,
    )
    for sentence in shadowed(stage.pool.rewards, rows.column_names):
        session.note(sentence)
    if held_out is not None:
        stage.held_out = _held_out(stage, sampler_of(session.model, sampling_of(options, True), tokenizer), *held_out)
    session.stage, session.train_dataset = stage, places
    return stage


def _held_out(stage: RolloutStage, writer: Sampler, prompts: Any, rows: Any) -> HeldOut:
    session, options = stage.session, stage.options
    _check_prompts(session.model, options, prompts)
    check_rewards(options, rows.column_names)
    return HeldOut(
        session, prompts, rows, writer, stage.pool, options.reward_weights, group_of(options), stage.seed, stage.decode
    )


def _check_prompts(model: Any, options: PolicyOptions, prompts: Any) -> None:
    longest = int(prompts.sizes("prompt_ids").max())
    check_lengths(limits(model).get("positions"), longest, options.max_completion_length)


def schedule_of(session: Session, options: PolicyOptions, count: int) -> Schedule:
    """Return which completions every step has; `count` is of the prompts.

    Raises:
        ConfigError: a generation makes no whole groups, or there are fewer prompts than it has.
    """
    args, group = session.args, options.num_generations
    size = size_of(options, args, session.strategy.data_shard.num_shards)
    if size % group:
        raise ConfigError(
            f"A generation of {size} completions does not divide into groups of num_generations={group}. Change "
            "per_device_train_batch_size, steps_per_generation or generation_batch_size."
        )
    seed = args.data_seed if args.data_seed is not None else args.seed
    order = Order(count, "random" if options.shuffle_dataset else "sequential", seed)
    schedule = Schedule(order, size, group, options.num_iterations)
    if not schedule.generations:
        raise ConfigError(f"A generation has {schedule.prompts} prompts, but the data has {count} alone.")
    left = count - schedule.generations * schedule.prompts
    if left:
        session.note(
            f"A pass has {schedule.generations} generations of {schedule.prompts} prompts; {left} of the prompts, "
            "others in every pass, are left out of it."
        )
    return schedule


def sampler_of(model: Any, settings: Sampling, tokenizer: Any) -> Sampler:
    """Return what writes completions with a model.

    Raises:
        ConfigError: no token ends a completion.
    """
    own = getattr(getattr(base_model(model), "generation_config", None), "eos_token_id", None)
    ends = check_ends(tokenizer, own, settings.stop)
    return Sampler(model, settings, ends, tokenizer=tokenizer)
