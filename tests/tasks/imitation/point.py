"""A point that is to be moved to the middle of a square: seen as numbers and as a small picture."""

from __future__ import annotations

import gymnasium
import numpy as np

from trainwright.tasks.imitation.episodes import Episode

NAME = "tests/Point-v0"


class Point(gymnasium.Env):
    """Terminates, and succeeds, in the middle."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, camera: bool = False, render_mode: str | None = None) -> None:
        self.camera, self.render_mode = camera, render_mode
        box = gymnasium.spaces.Box(-2, 2, (2,), np.float32)
        picture = gymnasium.spaces.Box(0, 255, (12, 12, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict({"state": box, "camera": picture}) if camera else box
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1, 2)
        return self._seen(), {}

    def step(self, action):
        self.place = np.clip(self.place + 0.2 * np.asarray(action), -2, 2)
        there = bool(np.abs(self.place).max() < 0.1)
        return self._seen(), -float(np.abs(self.place).sum()), there, False, {}

    def render(self):
        return self._picture(48)

    def _seen(self):
        state = self.place.astype(np.float32)
        return {"state": state, "camera": self._picture(12)} if self.camera else state

    def _picture(self, size):
        picture = np.zeros((size, size, 3), dtype=np.uint8)
        x, y = ((self.place.clip(-1, 1) + 1) / 2 * (size - 1)).astype(int)
        picture[y, x] = 255
        return picture


if NAME not in gymnasium.registry:
    gymnasium.register(NAME, Point, max_episode_steps=30)


def episodes(count: int, camera: bool = False, seed: int = 0) -> list[Episode]:
    """Return demonstrations that go straight to the middle."""
    made = []
    for number in range(count):
        env = gymnasium.make(NAME, camera=camera)
        observation, _ = env.reset(seed=seed + number)
        seen, done, over = [], [], False
        while not over:
            state = observation["state"] if camera else observation
            action = np.clip(-4 * state, -1, 1)
            seen.append(observation if camera else {"state": observation})
            done.append(action)
            observation, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
        made.append(Episode({name: np.stack([one[name] for one in seen]) for name in seen[0]}, np.stack(done)))
    return made
