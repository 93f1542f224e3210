"""`DatasetPipeline`: problems on disk, from a section `dataset` and a generator function or a task's name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from trainwright.config.keys.task_uses import ALGEBRA, MODELS, use
from trainwright.config.reading.ranges import check_values
from trainwright.config.sections import check_keys, plain, required
from trainwright.errors import ConfigError
from trainwright.tasks.algebra.generate import about, are_written, description, from_task, write_problems
from trainwright.tasks.algebra.problems import task_named

_SPLITS = ("train", "test")
BACKENDS = ("sympy", "sagemath")


class DatasetPipeline:
    """Writes problems and answers.

    Attributes:
        config: the section `dataset`.
        make: `f(seed)` returns (problem, answer).
        measure: `f(problem, answer)` returns numbers by name, or such mappings by name; their mean, spread and ends are
            written to train_stats.yaml and test_stats.yaml.
    """

    def __init__(
        self,
        config: Any,
        instance_generator: Callable[[int], Any] | None = None,
        statistics_calculator: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self.config = plain(config, "cfg.dataset")
        check_keys(self.config, ALGEBRA["dataset"], "cfg.dataset")
        required(self.config, ("save_dir", "num_train_samples", "num_test_samples"), "cfg.dataset")
        check_values(self.config, "cfg.dataset")
        backend = self.config.get("backend") or "sympy"
        if backend not in BACKENDS:
            raise ConfigError(f"cfg.dataset.backend '{backend}' is not known; known: {', '.join(BACKENDS)}.")
        if backend != "sympy" and instance_generator is None:
            raise ConfigError(
                f"cfg.dataset.backend '{backend}' is for a generator function of your own, which imports what it "
                "needs; tasks compute with sympy. Leave it out."
            )
        for sentence in use(self.config, "dataset", MODELS[0]):
            print(f"Note: {sentence}", flush=True)
        self.task = task_named(self.config["task"]) if self.config.get("task") else None
        if (self.task is None) == (instance_generator is None):
            raise ConfigError("cfg.dataset needs either `task`, the name of one, or a generator function.")
        self.make = instance_generator or partial(from_task, self.config["task"])
        self.measure = statistics_calculator

    @classmethod
    def from_config(
        cls,
        config: Any,
        instance_generator: Callable[[int], Any] | None = None,
        statistics_calculator: Callable[[Any, Any], Any] | None = None,
    ) -> DatasetPipeline:
        """Return the pipeline of a section `dataset`."""
        return cls(config, instance_generator, statistics_calculator)

    def run(self) -> Path:
        """Write train_raw.txt and test_raw.txt, with `save_json` *_data.jsonl too, and lexer.yaml: a task's, or one of
        the tokens that the problems have.

        Raises:
            DataError: the generator makes too few different problems, or does not draw from its seed alone.
        """
        jobs = self.config.get("n_jobs")
        write_problems(
            self.make, self._folder, self._counts, self._seed,
            processes=int(jobs) if jobs and int(jobs) > 0 else None, kinds=self._kinds, task=self.task,
            measure=self.measure,
        )  # fmt: skip
        return self._folder

    @property
    def is_done(self) -> bool:
        """Whether the files that it writes are there."""
        return are_written(self._folder, _SPLITS, self._kinds)

    def check_unchanged(self) -> None:
        """Raise a ConfigError where other problems are there than those that it would write."""
        found, wanted = about(self._folder), description(self.task, self._counts, self._seed)
        for name, value in (found or {}).items():
            if value != wanted[name]:
                raise ConfigError(
                    f"dataset.save_dir '{self._folder}' holds other problems: {name} {value}, not {wanted[name]}. Give "
                    "another folder for them (dataset.save_dir, and the paths of data), or take the change back."
                )

    @property
    def _folder(self) -> Path:
        return Path(self.config["save_dir"]).expanduser()

    @property
    def _counts(self) -> dict[str, int]:
        return {split: int(self.config[f"num_{split}_samples"]) for split in _SPLITS}

    @property
    def _seed(self) -> int:
        return int(self.config.get("root_seed", 42))

    @property
    def _kinds(self) -> list[str]:
        wanted = {"txt": self.config.get("save_text", True), "jsonl": self.config.get("save_json", False)}
        return [kind for kind, on in wanted.items() if on]
