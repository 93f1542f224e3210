"""Rewards on prompts that are held out: what the policy earns on them, which training neither sees nor is moved by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainwright import randomness
from trainwright.bars import counting
from trainwright.config.policy_options import PolicyOptions
from trainwright.generation.rollouts import Completion, Rollouts
from trainwright.losses.eval_context import evaluating, together, waiting
from trainwright.objectives.policy import advantages
from trainwright.reinforcement import samples
from trainwright.reinforcement.generation import Generation
from trainwright.reinforcement.judging import judged, told
from trainwright.reinforcement.metrics import metrics
from trainwright.rewards.pool import Failure, Pool
from trainwright.session.meters import Records
from trainwright.session.session import Session

_APART = -1  # in the place of a pass, so that no completion of training has these random numbers


@dataclass(frozen=True)
class HeldOut:
    """Prompts that are held out, what writes after them, and what judges that.

    Attributes:
        session: of the Trainer.
        prompts: rows with `prompt_ids`.
        rows: the same rows as they were read, for the rewards.
        rollouts: writes completions.
        pool: judges them.
        weights: of the rewards, or None.
        group: completions of each prompt.
        seed: of what is drawn.
        decode: tokens to text, without special tokens.
    """

    session: Session
    prompts: Any
    rows: Any
    rollouts: Rollouts
    pool: Pool
    weights: list[float] | None
    group: int
    seed: int
    decode: Callable[[list[int]], str]


def group_of(options: PolicyOptions) -> int:
    """Return how many completions of a held-out prompt are written: one where all would be the same."""
    if options.num_generations_eval is not None:
        return options.num_generations_eval
    return 1 if options.temperature_eval == 0 else options.num_generations


def names_of(functions: Sequence[str], options: PolicyOptions) -> list[str]:
    """Return what is measured, by rewards of these names."""
    lengths = ("mean_length", "min_length", "max_length", "clipped_ratio")
    known = ["reward", "reward_std", *(f"rewards/{name}/{what}" for name in functions for what in ("mean", "std"))]
    known += [] if group_of(options) == 1 else ["frac_reward_zero_std"]
    return [*known, *(f"completions/{name}" for name in lengths)]


def rewards_on(held_out: HeldOut, prefix: str) -> dict[str, float]:
    """Return the numbers of completions of held-out prompts by the names of training, and write them for people.

    Every prompt has the random numbers of its place at every step, so two evaluations differ by the policy alone.

    Raises:
        StopWaiting: the run is asked to stop.
        Exception: what writing or judging raised, on this rank or (a RuntimeError) on another.
    """
    session = held_out.session
    with together(session):
        mine = _share(held_out)
    written = _joined(held_out, [one for rank in session.strategy.gather_shards(mine) for one in rank])
    found = metrics(written, held_out.group)
    if held_out.group == 1:  # of which none differ
        del found["frac_reward_zero_std"]
    session.strategy.on_main(
        lambda: samples.write(session.run_folder, written, held_out.decode, held_out.group, samples.HELD_OUT)
    )
    return {f"{prefix}_{name}": value for name, value in found.items()}


def _share(held_out: HeldOut) -> list[tuple[int, list[Completion], torch.Tensor]]:
    """Return (place, completions, their rewards) of this rank's prompts, those of similar length written together."""
    session, shard = held_out.session, held_out.session.strategy.data_shard
    lengths = held_out.prompts.sizes("prompt_ids")
    mine = sorted(range(len(held_out.prompts))[shard.index :: shard.num_shards], key=lambda place: int(lengths[place]))
    size = max(1, session.args.eval_batch_size // held_out.group)
    written: list[list[Completion]] = []
    rewards, failures = torch.empty(0), list[Failure]()
    with (
        evaluating(session, Records()),
        session.strategy.whole(session.model),  # by the weights of the evaluation
        session.hooks.compute_loss_context_manager(),
        randomness.seeded(held_out.seed, _APART, shard.index),
        counting(len(mine), "evaluating") as tell,
    ):
        for start in range(0, len(mine), size):
            some = mine[start : start + size]
            prompts = [held_out.prompts[place]["prompt_ids"].tolist() for place in some]
            keys = [(held_out.seed, _APART, place) for place in some]
            with waiting(session, alone=True):
                written += held_out.rollouts.complete(prompts, keys, held_out.group)
            tell(len(some))
        if mine and session.strategy.leads_shard:  # last of all, as in training
            with waiting(session, alone=True):
                rows = [held_out.rows[place] for place in mine]
                rewards, failures = judged(held_out.pool, rows, written, held_out.decode)
    for sentence in told(failures, [mine[one.row // held_out.group] for one in failures]):
        session.note(f"Of the prompts held out: {sentence}")
    shares = rewards.split(held_out.group) if len(rewards) else [rewards] * len(mine)
    return list(zip(mine, written, shares, strict=True))


def _joined(held_out: HeldOut, shares: list[tuple[int, list[Completion], torch.Tensor]]) -> Generation:
    """Return the completions of all ranks in the order of the prompts."""
    shares.sort(key=lambda one: one[0])
    flat = [one for _, completions, _ in shares for one in completions]
    rewards = torch.cat([one for *_, one in shares])
    totals = advantages.weighted(rewards, held_out.weights)
    places = [place for place, *_ in shares]
    return Generation(
        epoch=int(held_out.session.state.epoch or 0),
        number=0,
        step=held_out.session.state.global_step,
        functions=[reward.name for reward in held_out.pool.rewards],
        rows=places,
        prompts=[held_out.prompts[place]["prompt_ids"] for place in places for _ in range(held_out.group)],
        completions=[one.ids for one in flat],
        finished=torch.tensor([one.finished for one in flat]),
        sampler=[one.log_probs for one in flat],
        rewards=rewards,
        totals=totals,
        advantages=advantages.of_groups(totals, held_out.group, "none"),
    )
