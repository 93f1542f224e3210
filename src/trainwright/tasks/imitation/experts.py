"""Scripted demonstrators, and episodes recorded from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from trainwright.errors import ConfigError, did_you_mean, missing_package
from trainwright.tasks.imitation.episodes import Episode
from trainwright.tasks.imitation.observations import named

Expert = Callable[[np.ndarray], Any]


def cart_pole(observation: np.ndarray) -> int:
    """Push to the side to which pole and cart lean."""
    x, x_speed, angle, angle_speed = observation
    return int(angle + 0.3 * angle_speed + 0.05 * x + 0.1 * x_speed > 0)


def mountain_car(observation: np.ndarray) -> np.ndarray:
    """Push where the car goes anyway."""
    return np.array([1.0 if observation[1] >= 0 else -1.0], dtype=np.float32)


def inverted_pendulum(observation: np.ndarray) -> np.ndarray:
    """Proportional and derivative control of the pole's angle, and a little of the cart."""
    x, angle, x_speed, angle_speed = observation
    return np.array([np.clip(20 * angle + 3 * angle_speed + x + 1.5 * x_speed, -3, 3)], dtype=np.float32)


def pendulum(observation: np.ndarray) -> np.ndarray:
    """Full torque until the energy is that of standing still at the top, then proportional and derivative control."""
    cos, sin, speed = observation
    angle = math.atan2(sin, cos)
    if cos > 0.8 and abs(speed) < 4:
        return np.array([np.clip(-16 * angle - 4 * speed, -2, 2)], dtype=np.float32)
    energy = speed**2 / 6 + 5 * cos
    push = 2.0 if speed >= 0 else -2.0
    return np.array([push if energy < 5 else -push], dtype=np.float32)


EXPERTS: dict[str, Expert] = {
    "CartPole-v1": cart_pole,
    "MountainCarContinuous-v0": mountain_car,
    "InvertedPendulum-v5": inverted_pendulum,
    "Pendulum-v1": pendulum,
}


def expert_for(env: str, name: str = "scripted") -> Expert | None:
    """Return the demonstrator of an environment; None for `random`, which every environment has.

    Raises:
        ConfigError: there is none.
    """
    if name == "random":
        return None
    if name != "scripted":
        raise ConfigError(f"The expert '{name}' is not known; known: scripted, random.")
    if env not in EXPERTS:
        raise ConfigError(
            f"There is no scripted expert for '{env}'.{did_you_mean(env, EXPERTS)} There are some for "
            f"{', '.join(EXPERTS)}; --expert random is for every environment."
        )
    return EXPERTS[env]


def make(env: str, **settings: Any) -> Any:
    """Return an environment.

    Raises:
        ConfigError: gymnasium or what the environment needs is not installed, there is none of that name, or it has
            not the settings.
    """
    try:
        import gymnasium
    except ModuleNotFoundError as error:
        raise missing_package("gymnasium", "imitation", f"The environment '{env}'") from error
    if env.startswith("gym_pusht/"):
        try:
            __import__("gym_pusht")
        except ModuleNotFoundError:
            raise ConfigError(f"The environment '{env}' needs the package gym-pusht: pip install gym-pusht.") from None
    try:
        return gymnasium.make(env, **settings)
    except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise ConfigError(f"The environment '{env}' needs a package that is not installed: {error}") from None
    except gymnasium.error.Error as error:
        raise ConfigError(f"There is no environment '{env}': {error}") from None
    except TypeError as error:
        if not settings:
            raise
        raise ConfigError(f"The environment '{env}' cannot be made with settings {settings}: {error}") from None


def number_of_actions(space: Any) -> int:
    """Return how many actions a discrete space has; 0 for one that is not."""
    return int(space.n) if hasattr(space, "n") and space.shape == () else 0


def record(env: str, expert: str, count: int, seed: int, **settings: Any) -> Iterator[Episode]:
    """Yield episodes of a demonstrator; episode n begins from `seed + n`."""
    act = expert_for(env, expert)
    world = make(env, **settings)
    discrete = number_of_actions(world.action_space)
    first = int(getattr(world.action_space, "start", 0)) if discrete else 0
    for number in range(count):
        observation, _ = world.reset(seed=seed + number)
        world.action_space.seed(seed + number)
        seen: list[dict[str, np.ndarray]] = []
        done, total, over = [], 0.0, False
        while not over:
            now = named(observation)
            action = act(next(iter(now.values()))) if act else world.action_space.sample()
            seen.append(now)
            done.append(np.eye(discrete, dtype=np.float32)[action - first] if discrete else np.ravel(action))
            observation, reward, terminated, truncated, _ = world.step(action)
            total += float(reward)
            over = terminated or truncated
        arrays = {name: np.stack([one[name] for one in seen]) for name in seen[0]}
        yield Episode(arrays, np.stack(done).astype(np.float32), {"seed": seed + number, "return": total})
    world.close()
