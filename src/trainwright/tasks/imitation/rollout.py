"""A policy tried in its environment: whole episodes from fixed seeds, several at a time in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trainwright.errors import ConfigError
from trainwright.tasks.imitation.actor import Actor, named
from trainwright.tasks.imitation.experts import make
from trainwright.tasks.imitation.policies import Policy

SURVIVAL = ("CartPole-v0", "CartPole-v1", "InvertedPendulum-v4", "InvertedPendulum-v5", "InvertedDoublePendulum-v5")
RULES = ("info", "terminated", "survived")
_FLAGS = ("is_success", "success")


@dataclass(frozen=True)
class Result:
    """One episode: its seed, the sum of its rewards, its steps, and whether it succeeded."""

    seed: int
    total: float
    length: int
    success: bool


@dataclass
class Rollouts:
    """Episodes of one environment.

    Attributes:
        env: its name; settings: its options.
        episodes: how many; episode n begins from `seed + n`.
        success: `terminated` at a goal (a time-out is none), `survived` to the time-out, `info` where the environment
            says it itself, or a number: the return at least. None: what is known of the environment.
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
    _envs: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.success is None:
            self.success = "survived" if self.env in SURVIVAL else "terminated"
        if isinstance(self.success, str) and self.success not in RULES:
            raise ConfigError(f"rollout.success '{self.success}' is not known; known: {', '.join(RULES)}, a number.")
        if self.episodes < 1:
            raise ConfigError(f"rollout.episodes is {self.episodes}; at least one is expected.")

    def run(self, policy: Policy) -> list[Result]:
        """Return the results of all episodes, in the order of their seeds."""
        if self._envs is None:
            self._envs = self._start()
        count, results = self._envs.num_envs, []
        for start in range(0, self.episodes, count):
            seeds = [self.seed + start + number for number in range(count)]
            results += self._batch(policy, seeds)
        return results[: self.episodes]

    def close(self) -> None:
        """End the processes."""
        if self._envs is not None:
            self._envs.close()
            self._envs = None

    def _start(self) -> Any:
        """Return the environments side by side."""
        make(self.env, **self.settings).close()  # a mistake is told here, not by a process
        import gymnasium

        wanted = min(os.cpu_count() or 1, 8) if self.workers is None else self.workers
        count = min(self.episodes, 10)
        makers = [partial(make, self.env, **self.settings)] * count
        if wanted < 2:
            return gymnasium.vector.SyncVectorEnv(makers)
        return gymnasium.vector.AsyncVectorEnv(makers, context="spawn" if _cuda_runs() else "fork")

    def _batch(self, policy: Policy, seeds: list[int]) -> list[Result]:
        """Return the results of episodes that begin together."""
        envs, count = self._envs, len(seeds)
        observation, _ = envs.reset(seed=seeds)
        actor = Actor(policy, count, seeds[0])
        totals, lengths = np.zeros(count), np.zeros(count, dtype=np.int64)
        open_ones, won = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)
        while open_ones.any():
            actions = _fitting(actor.act(named(observation)), envs.action_space)
            observation, rewards, terminated, truncated, info = envs.step(actions)
            totals[open_ones] += rewards[open_ones]
            lengths[open_ones] += 1
            ended = open_ones & (terminated | truncated)
            for number in np.flatnonzero(ended):
                won[number] = self._won(terminated[number], _flag(info, int(number)), totals[number])
            open_ones &= ~ended
        return [Result(seed, float(totals[n]), int(lengths[n]), bool(won[n])) for n, seed in enumerate(seeds)]

    def _won(self, terminated: bool, flag: bool | None, total: float) -> bool:
        if not isinstance(self.success, str):
            return total >= float(self.success or 0)
        if flag is not None or self.success == "info":
            return bool(flag)
        return bool(terminated) == (self.success == "terminated")

    def record_film(self, policy: Policy, path: Path) -> None:
        """Draw the first `film` episodes as a GIF."""
        from PIL import Image

        frames = []
        for number in range(self.film):
            world = make(self.env, render_mode="rgb_array", **self.settings)
            observation, _ = world.reset(seed=self.seed + number)
            actor, over = Actor(policy, 1, self.seed + number), False
            while not over:
                frames.append(Image.fromarray(world.render()))
                batch = {name: value[None] for name, value in named(observation).items()}
                action = actor.act(batch)[0]
                space = world.action_space
                action = (
                    int(action) if hasattr(space, "n") else np.clip(action.reshape(space.shape), space.low, space.high)
                )
                observation, _, terminated, truncated, _ = world.step(action)
                over = terminated or truncated
            world.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        small = [frame.resize((frame.width * 240 // frame.height, 240)) for frame in frames[::2]]
        small[0].save(path, save_all=True, append_images=small[1:], duration=40, loop=0)


def summary(results: list[Result], prefix: str) -> dict[str, float]:
    """Return success rate, mean return and mean length of episodes as metrics."""
    return {
        f"{prefix}_success_rate": float(np.mean([one.success for one in results])),
        f"{prefix}_return": float(np.mean([one.total for one in results])),
        f"{prefix}_episode_length": float(np.mean([one.length for one in results])),
    }


def _fitting(actions: np.ndarray, space: Any) -> np.ndarray:
    """Return actions as the environments take them: in their shape and bounds."""
    if not hasattr(space, "low"):
        return actions.astype(space.dtype)
    return np.clip(actions.reshape(space.shape), space.low, space.high).astype(space.dtype)


def _flag(info: Mapping[str, Any], number: int) -> bool | None:
    """Return what the environment itself says of an episode's success, also where it has begun the next one."""
    last = info.get("final_info", info)
    for source in (last, info):
        for name in _FLAGS:
            if name in source:
                return bool(np.asarray(source[name])[number])
    return None


def _cuda_runs() -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.is_initialized()
