"""A sweep in which optuna says what is tried next, and which jobs are ended early; its study lies beside the plan."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from trainwright.errors import missing_package
from trainwright.jobs.status import COMPLETE, ENDED, STOPPED
from trainwright.jobs.store.rows import Job
from trainwright.jobs.store.store import Store
from trainwright.jobs.sweeps import plan as plans
from trainwright.jobs.sweeps import spaces, table
from trainwright.jobs.sweeps.plan import Described, Plan
from trainwright.jobs.worker.worker import is_to_restart

_BEFORE_PRUNING = 3  # trials that are whole before one is ended


class Study:
    """The trials of a sweep.

    Every trial that optuna has begun has one job, which knows its number: so whoever goes on with a sweep that was
    killed finds each where it was, and puts in the queue what was not yet.

    Args:
        store: the database.
        plan: the sweep.
        described: looks at a YAML file.
        at_once: jobs that are in the queue or run at a time.

    Raises:
        ConfigError: optuna is not installed.
    """

    def __init__(self, store: Store, plan: Plan, described: Described, at_once: int) -> None:
        try:
            import optuna
        except ImportError:
            raise missing_package("optuna", "hpo", "A sweep with a range, --trials or --prune") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna: Any = optuna
        self.store, self.plan, self.described, self.at_once = store, plan, described, at_once
        self.space = spaces.read(plan.words)[0]
        pruner = optuna.pruners.MedianPruner(n_startup_trials=_BEFORE_PRUNING) if plan.prune else None
        self._study: Any = optuna.create_study(
            storage=f"sqlite:///{plan.folder / plans.STUDY}", study_name=plan.name, direction=plan.direction,
            load_if_exists=True, pruner=pruner or optuna.pruners.NopPruner(),
        )  # fmt: skip
        combinations = plan.combinations() or []
        self.trials = len(combinations) if plan.trials is None else plan.trials
        if plan.trials is None and not self._study.trials:
            for params in combinations:
                self._study.enqueue_trial(params)

    def look(self) -> bool:
        """See how the trials are, and begin as many as there is room for; whether all have ended."""
        jobs = {job["kept"][table.KEPT]["trial"]: job for job in table.jobs(self.store, self.plan.name)}
        running = [trial for trial in self._study.trials if trial.state.name == "RUNNING"]
        for trial in running:
            if len(trial.params) < len(self.space):  # it was killed while it was drawn
                self._tell(trial, "FAIL")
            elif trial.number not in jobs:
                self._submit(trial)
            else:
                self._follow(trial, jobs[trial.number])
        begun = [trial for trial in self._study.trials if trial.state.name != "WAITING"]
        under_way = sum(trial.state.name == "RUNNING" for trial in begun)
        for more in range(min(self.at_once - under_way, self.trials - len(begun))):
            self._begin(len(begun) + more)
            under_way += 1
        return not under_way

    def _begin(self, drawn: int) -> None:
        """Draw a trial: a function of the seed and of those before, whatever process drew them."""
        self._study.sampler = self._optuna.samplers.TPESampler(seed=self.plan.seed + drawn, constant_liar=True)
        trial = self._study.ask({name: self._distribution(own) for name, own in self.space.items()})
        self._submit(trial)

    def _distribution(self, own: spaces.Choices | spaces.Range) -> Any:
        kinds = self._optuna.distributions
        if isinstance(own, spaces.Choices):
            return kinds.CategoricalDistribution(own.values)
        if own.is_whole:
            return kinds.IntDistribution(int(own.low), int(own.high))
        return kinds.FloatDistribution(own.low, own.high, log=own.is_log)

    def _submit(self, trial: Any) -> None:
        params = {name: str(value) for name, value in trial.params.items()}
        plans.submit(self.store, self.plan, trial.number, params, self.described)

    def _follow(self, trial: Any, job: Job) -> None:
        """Tell what came of a trial's job that has ended; end one that is not worth it."""
        if self.plan.prune:
            self._report(trial, job)
        if job["status"] in ENDED and not is_to_restart(job):
            best = table.value(self.store, job["id"], self.plan.metric, self.plan.direction)
            if job["status"] == STOPPED and job["kept"].get("pruned"):
                self._tell(trial, "PRUNED")
            elif job["status"] == COMPLETE and best is not None:
                self._study.tell(trial.number, best)
            else:
                self._tell(trial, "FAIL")
        elif self.plan.prune and job["stop_requested"] is None and self._trial(trial).should_prune():
            self.store.keep(job["id"], "pruned", time.time())
            self.store.ask_to_stop(job["id"])

    def _report(self, trial: Any, job: Job) -> None:
        """Tell optuna what a job has told since."""
        told = self._trial(trial)
        for step, value in _good(self.store.metric(job["id"], self.plan.metric)):
            if step not in trial.intermediate_values:
                told.report(value, step)

    def _trial(self, trial: Any) -> Any:
        return self._optuna.trial.Trial(self._study, trial._trial_id)

    def _tell(self, trial: Any, state: str) -> None:
        self._study.tell(trial.number, state=self._optuna.trial.TrialState[state])


def _good(points: Iterable[tuple[int, float, float]]) -> Iterable[tuple[int, float]]:
    return [(step, value) for step, value, _ in points if value == value and step >= 0]
