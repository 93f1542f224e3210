"""Hyperparameter search with optuna; the study is stored in the output folder, so that a search can go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.args.foreign import check
from trainwright.args.training import ArgumentFields
from trainwright.checkpoint.lock import RunLock
from trainwright.errors import ConfigError, did_you_mean, missing_package
from trainwright.state import BestRun

if TYPE_CHECKING:
    from trainwright.engine.trainer import Trainer

STUDY = "hyperparameter_search.db"
_OF_THE_STUDY = ("storage", "study_name", "sampler", "pruner", "load_if_exists")
_AGAIN = "again"  # at a trial: the number of the stopped one whose point it has
_SPEED = ("_runtime", "_per_second", "_compilation_time")


def default_space(trial: Any) -> dict[str, Any]:
    """Return the search space used when none is given: learning rate, epochs, seed and batch size."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 5),
        "seed": trial.suggest_int("seed", 1, 40),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4, 8, 16, 32, 64]),
    }


def default_objective(metrics: dict[str, float]) -> float:
    """Return the evaluation loss if it is all there is, else the sum of the other metrics."""
    others = {k: v for k, v in metrics.items() if k not in ("eval_loss", "epoch") and not k.endswith(_SPEED)}
    return sum(others.values()) if others else metrics["eval_loss"]


def hyperparameter_search(
    trainer: Trainer,
    hp_space: Callable[[Any], dict[str, Any]] | None = None,
    compute_objective: Callable[[dict[str, float]], Any] | None = None,
    n_trials: int = 20,
    direction: str | list[str] = "minimize",
    backend: Any = None,
    hp_name: Callable[[Any], str] | None = None,
    **kwargs: Any,
) -> BestRun | list[BestRun]:
    """Train with different arguments and return the best.

    The trials are kept in `hyperparameter_search.db` in the output folder: a search that was stopped goes on with
    the trials that are left of `n_trials`, and tries again what it was trying. By default points are drawn by a
    `TPESampler` seeded with `args.seed` plus the number of trials there are.

    Args:
        hp_space: a trial to argument names and values.
        compute_objective: metrics of an evaluation to what is optimised: a number, or several.
        n_trials: trials in all.
        direction: "minimize" or "maximize", or one for each objective.
        backend: None or "optuna".
        hp_name: a trial to its name.
        kwargs: passed to optuna's `create_study` (storage, study_name, sampler, pruner, load_if_exists) and `optimize`.

    Raises:
        ConfigError: no model_init, another backend, optuna is not installed, or another search is in the folder.
    """
    if trainer.model_init is None:
        raise ConfigError("A hyperparameter search starts every trial with a new model: give model_init=, not model=.")
    if backend is not None and str(getattr(backend, "value", backend)) != "optuna":
        raise ConfigError(f"backend='{backend}' is not supported; use backend='optuna'.")
    try:
        import optuna
    except ImportError:
        raise missing_package("optuna", "hpo", "A hyperparameter search") from None
    search = _Search(trainer, hp_space or default_space, compute_objective or default_objective, hp_name)
    is_alone = "storage" not in kwargs  # one that is given may be shared with other processes
    with _only_search(Path(trainer.args.output_dir or ".")) if is_alone else nullcontext():
        study = _study(optuna, trainer, direction, kwargs)
        if is_alone:
            _try_again(optuna, study)
        done = sum(trial.state.is_finished() - (_AGAIN in trial.user_attrs) for trial in study.trials)
        try:
            study.optimize(search.objective, n_trials=max(0, n_trials - done), **kwargs)
        finally:
            search.restore()
    if isinstance(direction, str):
        return _best(study.best_trial)
    return [_best(trial) for trial in study.best_trials]


def _study(optuna: Any, trainer: Trainer, direction: str | list[str], kwargs: dict[str, Any]) -> Any:
    folder = Path(trainer.args.output_dir or ".")
    folder.mkdir(parents=True, exist_ok=True)
    given = {name: kwargs.pop(name) for name in _OF_THE_STUDY if name in kwargs}
    given.setdefault("load_if_exists", True)
    given.setdefault("storage", f"sqlite:///{(folder / STUDY).resolve()}")
    given.setdefault("study_name", "search")
    goal = {"direction": direction} if isinstance(direction, str) else {"directions": direction}
    study = optuna.create_study(**goal, **given)
    if "sampler" not in given:  # one that begins anew with the same seed would draw the same points again
        study.sampler = optuna.samplers.TPESampler(seed=trainer.args.seed + len(study.trials))
    return study


@contextmanager
def _only_search(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = RunLock(folder)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _try_again(optuna: Any, study: Any) -> None:
    """End the trials that a stopped process left, and put their points first."""
    state = optuna.trial.TrialState
    known = {trial.user_attrs.get(_AGAIN) for trial in study.trials}
    for trial in study.get_trials(states=[state.RUNNING]):
        if trial.number not in known:
            study.enqueue_trial(trial.params, user_attrs={_AGAIN: trial.number})
        study.tell(trial.number, state=state.FAIL)


class _Search:
    """One trial after another on the same trainer, which gets its own arguments back afterwards."""

    def __init__(self, trainer: Trainer, space: Any, objective: Any, name: Any) -> None:
        self.trainer = trainer
        self.space = space
        self.compute = objective
        self.name = name
        self.args = trainer.args

    def objective(self, trial: Any) -> Any:
        """Train one trial and return what is optimised."""
        trainer = self.trainer
        values = self.space(trial)
        known = [f.name for kind in (self.args, ArgumentFields) for f in fields(kind)]
        for name in values:
            if name not in known:
                raise ConfigError(f"hp_space gives '{name}', which is no argument.{did_you_mean(name, known)}")
        trainer.args = copy(self.args)
        for name, value in values.items():
            setattr(trainer.args, name, value)
        check(trainer.args)
        folder = self.name(trial) if self.name is not None else f"run-{trial.number}"
        trainer.run_folder = Path(self.args.output_dir or ".") / folder
        trainer.trial = trial
        reported: dict[str, Any] = {}

        def report(step: int, metrics: dict[str, float]) -> None:
            reported["objective"] = self.compute(dict(metrics))
            if isinstance(reported["objective"], int | float):
                trial.report(reported["objective"], step)
                if trial.should_prune():
                    import optuna

                    raise optuna.TrialPruned()

        trainer.trial_report = report
        trainer.train(trial=trial)
        if "objective" not in reported:
            reported["objective"] = self.compute(dict(trainer.evaluate()))
        return reported["objective"]

    def restore(self) -> None:
        """Give the trainer its own arguments back."""
        self.trainer.args = self.args
        self.trainer.run_folder = Path(self.args.output_dir or ".")
        self.trainer.trial = self.trainer.trial_report = None


def _best(trial: Any) -> BestRun:
    objective = trial.value if len(trial.values) == 1 else list(trial.values)
    return BestRun(str(trial.number), objective, dict(trial.params))
