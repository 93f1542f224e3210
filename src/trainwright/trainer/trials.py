"""The trials of a search on several ranks: rank 0 has the study, and all ranks train the same trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

from trainwright.errors import TrainwrightError, add_note
from trainwright.parallel.strategy import Strategy
from trainwright.saving.agreement import as_main

T = TypeVar("T")
_FACTS = ("number", "params", "distributions", "user_attrs", "datetime_start")


class SharedTrial:
    """Rank 0's trial for all ranks: what they ask of it, at the same places, is asked once, and all get the answer.

    What can be read of it without asking is a copy.
    """

    def __init__(self, trial: Any, strategy: Strategy) -> None:
        self._trial = trial
        self._strategy = strategy
        vars(self).update(strategy.from_main(self._facts()))

    def __getattr__(self, name: str) -> Any:
        from optuna.trial import Trial

        if name.startswith("_") or not callable(getattr(Trial, name, None)):
            raise AttributeError(f"The trial of several ranks has no '{name}'.")
        return partial(self._ask, name)

    def _ask(self, name: str, *given: Any, **named: Any) -> Any:
        def answer() -> tuple[Any, dict[str, Any]]:
            found = getattr(self._trial, name)(*given, **named) if self._trial is not None else None
            return found, self._facts()

        found, facts = as_main(self._strategy, answer, f"trial.{name}")
        vars(self).update(facts)
        return found

    def _facts(self) -> dict[str, Any]:
        return {} if self._trial is None else {name: getattr(self._trial, name) for name in _FACTS}


@dataclass
class _End:
    """What rank 0 tells the others when the search is over.

    Attributes:
        found: the best.
        error: why there is none.
        in_trial: whether that is the exception of the last trial, which every rank has itself.
    """

    found: Any = None
    error: TrainwrightError | RuntimeError | None = None
    in_trial: bool = False


class Trials:
    """Trains the trials of a study, on all ranks at once.

    Args:
        strategy: exchanges between the ranks.
        train: trains a trial and returns what is optimised.
    """

    def __init__(self, strategy: Strategy, train: Callable[[Any], Any]) -> None:
        self.strategy = strategy
        self.train = train
        self.failure: Exception | None = None
        self.lost = False

    def search(self, study: Callable[[], T]) -> T:
        """Let rank 0 run the study, whose trials all ranks train; return what it finds, on every rank."""
        if not self.strategy.is_distributed:
            return study()
        if self.strategy.is_main:
            return self._lead(study)
        found: T = self._follow()
        return found

    def objective(self, trial: Any) -> Any:
        """Train a trial, on all ranks; the study calls this on rank 0."""
        if not self.strategy.is_distributed:
            return self.train(trial)
        try:
            return self._together(trial, self.strategy.from_main(f"trial {uuid4().hex}"))
        except Exception:
            if self.lost:
                trial.study.stop()
            raise

    def _lead(self, study: Callable[[], T]) -> T:
        try:
            found = study()
        except Exception as error:
            if not self.lost:
                told = error if isinstance(error, TrainwrightError) else RuntimeError(f"The search failed: {error!r}")
                self.strategy.from_main(_End(error=told, in_trial=error is self.failure))
            raise
        if self.lost and self.failure is not None:
            raise self.failure
        self.strategy.from_main(_End(found))
        return found

    def _follow(self) -> Any:
        while not isinstance(told := self.strategy.from_main(None), _End):
            try:
                self._together(None, told)
            except Exception:
                if self.lost:
                    raise
        if told.in_trial and self.failure is not None:
            raise self.failure
        if told.error is not None:
            raise told.error
        return told.found

    def _together(self, trial: Any, place: str) -> Any:
        """Train a trial; where it fails, note whether all ranks are here, so that they may go on with the next one."""
        self.failure = None
        try:
            return self.train(SharedTrial(trial, self.strategy))
        except Exception as error:
            self.failure = error
            self.lost = self.strategy.all_here(place, True) is None
            if self.lost:
                add_note(error, "Not all ranks failed in this trial, so the search ends with it.")
            raise
