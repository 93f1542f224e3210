"""A policy tried in its environment: whole episodes from fixed seeds, several at a time in processes of their own."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from trainwright.errors import ConfigError
from trainwright.tasks.imitation.actor import Actor
from trainwright.tasks.imitation.experts import make, number_of_actions
from trainwright.tasks.imitation.observations import named
from trainwright.tasks.imitation.policies.policy import Policy
from trainwright.tasks.imitation.success import Success, check, flags, success_of
from trainwright.world import DataShard

T = TypeVar("T")
_AT_ONCE = 10  # environments side by side


@dataclass(frozen=True)
class Result:
    """One episode: its seed, the sum of its rewards, its steps, and whether it succeeded, None where nobody can say."""

    seed: int
    total: float
    length: int
    success: bool | None


@dataclass
class Rollouts:
    """Episodes of one environment.

    Attributes:
        env: its name; settings: its options.
        episodes: how many; episode n begins from `seed + n`, and what is random in it depends on that alone.
        success: `terminated` at a goal (a time-out is none), `survived` to the time-out, `info` where the environment
            says it itself, or a number: the return at least. None: what is known of the environment.
        rule: how success is told, once `prepare` has seen the environment.
        workers: 0 or 1 steps the environments, ten at a time, one after another in this process; with more, which is
            the default where there are several processors, each has a process of its own. The results are the same.
        film: episodes that become a GIF.
        rollout_steps: training steps between two rollouts; None for every evaluation.
    """

    env: str
    episodes: int = 20
    seed: int = 10_000
    success: str | float | None = None
    workers: int | None = None
    film: int = 0
    rollout_steps: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    rule: Success | None = field(default=None, init=False)
    _envs: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check(self.success)
        if self.episodes < 1:
            raise ConfigError(f"rollout.episodes is {self.episodes}; at least one is expected.")

    def prepare(self, policy: Policy) -> None:
        """Look at the environment, so that a mistake is told before anything is trained, and not by a process.

        Raises:
            ConfigError: there is none of that name, or its actions are not those of the policy.
        """
        world = make(self.env, **self.settings)
        space = world.action_space
        self.rule = success_of(world.spec, self.success)
        world.close()
        check_actions(space, policy.config, self.env)

    def run(self, policy: Policy, shard: DataShard = DataShard()) -> list[Result]:  # noqa: B008  # it is frozen
        """Return the results of the episodes, in the order of their seeds; of several shards, those of one."""
        seeds = range(self.seed + shard.index, self.seed + self.episodes, shard.num_shards)
        if not seeds:
            return []
        if self._envs is None:
            self.prepare(policy)
            self._envs = self._start(min(len(seeds), _AT_ONCE))
        count, results = self._envs.num_envs, []
        for start in range(0, len(seeds), count):
            some = list(seeds[start : start + count])
            results += self._batch(policy, filled(some, count), len(some))
        return results

    def close(self) -> None:
        """End the processes."""
        if self._envs is not None:
            self._envs.close()
            self._envs = None

    def _start(self, count: int) -> Any:
        """Return so many environments side by side."""
        import gymnasium

        wanted = min(os.cpu_count() or 1, 8) if self.workers is None else self.workers
        makers = [partial(make, self.env, **self.settings)] * count
        if wanted < 2:
            return gymnasium.vector.SyncVectorEnv(makers)
        return gymnasium.vector.AsyncVectorEnv(makers, context="spawn" if _cuda_runs() else "fork")

    def _batch(self, policy: Policy, seeds: list[int], wanted: int) -> list[Result]:
        """Return the results of the first episodes of those that begin together."""
        envs, count = self._envs, len(seeds)
        observation, _ = envs.reset(seed=seeds)
        rows = min(
            self.episodes, _AT_ONCE
        )  # the policy's, with any number of shards: sums depend on it in the last bit
        actor = Actor(policy, filled(seeds, rows))
        totals, lengths = np.zeros(count), np.zeros(count, dtype=np.int64)
        told, succeeded, ended_early = (np.zeros(count, dtype=bool) for _ in range(3))
        open_ones = np.arange(count) < wanted
        while open_ones.any():
            seen = {name: np.stack(filled(list(values), rows)) for name, values in named(observation).items()}
            actions = fitting(actor.act(seen)[:count], envs.single_action_space)
            observation, rewards, terminated, truncated, info = envs.step(actions)
            totals[open_ones] += rewards[open_ones]
            lengths[open_ones] += 1
            says, what = flags(info, count)
            told |= open_ones & says
            succeeded |= open_ones & what  # at any step: it may say so once only
            ended_early |= open_ones & terminated
            open_ones &= ~(terminated | truncated)
        assert self.rule is not None
        won = [
            self.rule.won(bool(ended_early[n]), bool(succeeded[n]) if told[n] else None, float(totals[n]))
            for n in range(wanted)
        ]
        return [Result(seeds[n], float(totals[n]), int(lengths[n]), won[n]) for n in range(wanted)]

    def record_film(self, policy: Policy, path: Path) -> None:
        """Draw the first `film` episodes as a GIF."""
        from PIL import Image

        _look_for_no_screen()
        frames = []
        for number in range(self.film):
            world = make(self.env, render_mode="rgb_array", **self.settings)
            observation, _ = world.reset(seed=self.seed + number)
            actor, over = Actor(policy, [self.seed + number]), False
            while not over:
                frames.append(Image.fromarray(world.render()))
                batch = {name: value[None] for name, value in named(observation).items()}
                action = fitting(actor.act(batch), world.action_space)[0]
                observation, _, terminated, truncated, _ = world.step(action)
                over = terminated or truncated
            world.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        small = [frame.resize((frame.width * 240 // frame.height, 240)) for frame in frames[::2]]
        small[0].save(path, save_all=True, append_images=small[1:], duration=40, loop=0)


def filled(some: list[T], count: int) -> list[T]:
    """Return a list, its first entry repeated at the end until there are so many."""
    return [*some, *some[:1] * (count - len(some))]


def _look_for_no_screen() -> None:
    """Let SDL, with which gymnasium draws, do without a screen where there is none; it would complain of that."""
    if sys.platform == "linux" and not os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def summary(results: list[Result], prefix: str) -> dict[str, float]:
    """Return success rate, where anybody knows what success is, mean return and mean length of episodes as metrics."""
    known = any(one.success is not None for one in results)
    rate = {f"{prefix}_success_rate": float(np.mean([bool(one.success) for one in results]))} if known else {}
    return {
        **rate,
        f"{prefix}_return": float(np.mean([one.total for one in results])),
        f"{prefix}_episode_length": float(np.mean([one.length for one in results])),
    }


def check_actions(space: Any, config: Any, env: str) -> None:
    """Raise a ConfigError where an environment's actions are not those that a policy gives."""
    number, size = number_of_actions(space), int(np.prod(space.shape or (1,)))
    if bool(number) != config.discrete:
        raise ConfigError(
            f"The actions of '{env}' are {f'one of {number}' if number else space}, so data.discrete must be "
            f"{str(bool(number)).lower()}."
        )
    if config.action_size > number if number else config.action_size != size:
        raise ConfigError(
            f"The demonstrations have {config.action_size} {'actions' if number else 'numbers in an action'}, but "
            f"'{env}' has {number or size}."
        )


def fitting(actions: np.ndarray, space: Any) -> np.ndarray:
    """Return actions (count, ...) as an environment takes them: in its shape and bounds, counted from its first one."""
    fitted: np.ndarray
    if number_of_actions(space):
        fitted = (actions + space.start).astype(space.dtype)
        return fitted
    shaped = actions.reshape(len(actions), *space.shape)
    if hasattr(space, "low"):
        fitted = np.clip(shaped, space.low, space.high).astype(space.dtype)
        return fitted
    first = getattr(space, "start", 0)  # several whole numbers, or several switches
    last = first + getattr(space, "nvec", 2) - 1
    fitted = np.clip(np.rint(shaped), first, last).astype(space.dtype)
    return fitted


def _cuda_runs() -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.is_initialized()
