"""Hyperparameter search with optuna; the study is stored in the output folder, so that a search can go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from copy import copy, deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

from trainwright.args.aliases import REPLACED
from trainwright.args.foreign import check
from trainwright.args.signatures import check_call, check_returned
from trainwright.args.training import ArgumentFields
from trainwright.callbacks import states
from trainwright.checkpoint import parts
from trainwright.checkpoint.lock import owned
from trainwright.errors import ConfigError, UnsavableError, did_you_mean, missing_package
from trainwright.saving import reporting
from trainwright.saving.agreement import as_main
from trainwright.session.session import Session
from trainwright.state import BestRun
from trainwright.trainer.trials import Trials
from trainwright.training import setup

STUDY = "hyperparameter_search.db"
_OF_THE_STUDY = ("storage", "study_name", "sampler", "pruner", "load_if_exists")
_AGAIN = "again"  # at a trial: the number of the stopped one whose point it has
_ABSENT = object()
_SPEED = ("_runtime", "_per_second", "_compilation_time")
_OF_THE_PROCESS = (
    "output_dir", "use_cpu", "report_to", "disable_tqdm", "log_level", "log_level_replica", "push_to_hub",
    "hub_model_id", "ddp_backend", "ddp_timeout", "ddp_find_unused_parameters", "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers", "ddp_static_graph",
)  # fmt: skip
"""Arguments that take effect when the Trainer is made, once for all trials."""
_TWINS = {"gradient_checkpointing": "activation_checkpointing"}
_TWINS |= {f"{old}_kwargs": f"{new}_kwargs" for old, new in _TWINS.items()} | {"warmup_ratio": "warmup_steps"}


def default_space(trial: Any) -> dict[str, Any]:
    """Return the search space used when none is given: learning rate, epochs, seed and batch size."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 5),
        "seed": trial.suggest_int("seed", 1, 40),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4, 8, 16, 32, 64]),
    }


def default_objective(metrics: dict[str, float]) -> float:
    """Return the evaluation loss if it is all there is, else the sum of the other metrics.

    Raises:
        ConfigError: one of them is no number.
    """
    others = {k: v for k, v in metrics.items() if k not in ("eval_loss", "epoch") and not k.endswith(_SPEED)}
    for name, value in others.items():
        if not isinstance(value, int | float):
            raise ConfigError(
                f"A search adds up the metrics, but {name} is a {type(value).__name__}. Name the one that counts "
                "(metric_for_best_model), or give compute_objective=."
            )
    return sum(others.values()) if others else metrics["eval_loss"]


def hyperparameter_search(
    session: Session,
    /,
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
    `TPESampler` that is seeded for each with `args.seed` plus the number of points before, so that they are those of a
    search that was not stopped; a `sampler` that is given draws new ones when a search goes on.

    Of several ranks the first has the study; all of them train the same trials and return the same. `hp_space` and
    `compute_objective` are called on every rank, and what they return on rank 0 counts.

    Args:
        hp_space: a trial to argument names and values.
        compute_objective: metrics of an evaluation to what is optimised: a number, or several. By default the metric
            that `metric_for_best_model` names; without one the sum of the metrics of all sets, or the loss where there
            are no others.
        n_trials: trials in all.
        direction: "minimize" or "maximize", or one for each objective.
        backend: None or "optuna".
        hp_name: a trial to its name.
        kwargs: passed to optuna's `create_study` (storage, study_name, sampler, pruner, load_if_exists) and `optimize`.

    Raises:
        ConfigError: no model_init, another backend, optuna is not installed, another search is in the folder, its
            trials have another direction, or `n_jobs`, since all trials are this Trainer's.
    """
    optuna = _optuna(session, backend, kwargs.get("n_jobs", 1))
    _check(hp_space, compute_objective, n_trials, direction)
    search = _Search(session, hp_space or default_space, compute_objective, hp_name)
    trials = Trials(session.strategy, search.train)
    try:
        return trials.search(lambda: _run(optuna, session, trials.objective, n_trials, direction, kwargs))
    finally:
        search.restore()


def _run(
    optuna: Any, session: Session, objective: Any, n_trials: int, direction: str | list[str], kwargs: dict[str, Any]
) -> BestRun | list[BestRun]:
    """Run the trials that are left of a study, and return the best."""
    is_alone = "storage" not in kwargs  # one that is given may be shared with other processes
    is_given = kwargs.get("sampler") is not None
    with owned(Path(session.args.output_dir or ".")) if is_alone else nullcontext():
        study = _study(optuna, session, direction, kwargs)
        if is_alone:
            _try_again(optuna, study)
        done = sum(trial.state.is_finished() - (_AGAIN in trial.user_attrs) for trial in study.trials)
        renewing: list[Any] = [] if is_given else [lambda study, _: _renew_sampler(optuna, study, session.args.seed)]
        callbacks = [*(kwargs.pop("callbacks", None) or []), *renewing]
        study.optimize(objective, n_trials=max(0, n_trials - done), callbacks=callbacks, **kwargs)
    if isinstance(direction, str):
        return _best(study.best_trial)
    return [_best(trial) for trial in study.best_trials]


def _optuna(session: Session, backend: Any, n_jobs: int) -> Any:
    """Return the package that searches, where it can."""
    if session.model_init is None:
        raise ConfigError("A hyperparameter search starts every trial with a new model: give model_init=, not model=.")
    if backend is not None and str(getattr(backend, "value", backend)) != "optuna":
        raise ConfigError(f"backend='{backend}' is not supported; use backend='optuna'.")
    try:
        import optuna
    except ImportError:
        raise missing_package("optuna", "hpo", "A hyperparameter search") from None
    if n_jobs != 1:
        raise ConfigError(
            f"n_jobs={n_jobs}: trials follow one another on this Trainer. For several at once start the "
            "script several times with the same storage=, such as 'sqlite:////tmp/study.db'."
        )
    return optuna


def _check(space: Any, objective: Any, n_trials: int, direction: Any) -> None:
    """Raise a ConfigError where a search is asked for what it cannot do."""
    if space is not None:
        check_call(space, "hp_space", ("trial",))
    if objective is not None:
        check_call(objective, "compute_objective", ("metrics",))
    if n_trials < 1:
        raise ConfigError(f"n_trials={n_trials} tries nothing; give the number of trials, at least 1.")
    for one in [direction] if isinstance(direction, str) else direction:
        if str(getattr(one, "name", one)).lower() not in ("minimize", "maximize"):
            raise ConfigError(f"direction={one!r} is not known; it is 'minimize' or 'maximize'.")


def _study(optuna: Any, session: Session, direction: str | list[str], kwargs: dict[str, Any]) -> Any:
    folder = Path(session.args.output_dir or ".")
    folder.mkdir(parents=True, exist_ok=True)
    given = {name: kwargs.pop(name) for name in _OF_THE_STUDY if name in kwargs}
    if given.get("sampler", _ABSENT) is None:
        del given["sampler"]
    given.setdefault("load_if_exists", True)
    given.setdefault("storage", f"sqlite:///{(folder / STUDY).resolve()}")
    given.setdefault("study_name", "search")
    goal = {"direction": direction} if isinstance(direction, str) else {"directions": direction}
    study = optuna.create_study(**goal, **given)
    asked = [direction] if isinstance(direction, str) else list(direction)
    kept = [one.name.lower() for one in study.directions]
    if kept != [getattr(one, "name", one).lower() for one in asked]:
        raise ConfigError(
            f"direction={direction!r}, but the {len(study.trials)} trials of the search '{study.study_name}' in "
            f"{given['storage']} were to {', '.join(kept)}. Give the same direction, or another study_name."
        )
    if "sampler" not in given:
        _renew_sampler(optuna, study, session.args.seed)
    elif study.trials:  # one that begins anew with the same seed would draw the same points again
        study.sampler.reseed_rng()
    return study


def _renew_sampler(optuna: Any, study: Any, seed: int) -> None:
    """Let the next point be a function of the points before, whatever process drew them."""
    drawn = sum(_AGAIN not in trial.user_attrs for trial in study.trials)
    study.sampler = optuna.samplers.TPESampler(seed=seed + drawn)


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

    def __init__(self, session: Session, space: Any, objective: Any, name: Any) -> None:
        self.session = session
        self.space = space
        self.compute = objective
        self.name = name
        self.args = session.args
        listening, note = session.callback_handler.callbacks, session.note
        self.parts = dict(parts.of_users(session.checkpoint_parts, None, note))
        self.states = self.copied_states()
        self.callbacks = deepcopy((states.collect(listening, note), states.collect_dicts(listening, note)))

    def train(self, trial: Any) -> Any:
        """Train one trial and return what is optimised."""
        session = self.session
        values, folder = as_main(session.strategy, lambda: (self.space(trial), self.folder(trial)), "hp_space")
        check_returned(isinstance(values, Mapping), values, "hp_space", "a dict of arguments and values")
        session.args = changed_arguments(self.args, values)
        self.begin_stateful()
        session.run_folder = Path(self.args.output_dir or ".") / folder
        session.trial = trial
        reported: dict[str, Any] = {}

        def judge(metrics: dict[str, float]) -> None:
            reported["objective"] = as_main(session.strategy, lambda: self.judged(metrics), "compute_objective")

        def report(step: int, metrics: dict[str, float]) -> None:
            judge(metrics)
            if isinstance(reported["objective"], int | float):
                trial.report(reported["objective"], step)
                if trial.should_prune():
                    import optuna

                    raise optuna.TrialPruned()

        session.trial_report = report
        session.hooks.train(trial=trial)
        if "objective" not in reported:
            judge(session.hooks.evaluate())
        return reported["objective"]

    def folder(self, trial: Any) -> str:
        """Return the name of a trial's folder."""
        return str(self.name(trial)) if self.name is not None else f"run-{trial.number}"

    def judged(self, metrics: dict[str, Any]) -> Any:
        """Return what is optimised of an evaluation's metrics."""
        if self.compute is not None:
            found = self.compute(dict(metrics))
            several = found if isinstance(found, list | tuple) else [found]
            numbers = all(hasattr(one, "__float__") for one in several)
            check_returned(numbers, found, "compute_objective", "a number, or several")
            return found
        named = self.session.args.metric_for_best_model
        if named not in (None, "loss", "eval_loss"):  # the loss is also what is taken where none is named
            return reporting.chosen_metric(self.session.args, metrics)
        return default_objective({name: value for name, value in metrics.items() if name not in self.session.beside})

    def copied_states(self) -> dict[str, Any]:
        """Return the states of the user's parts; say which cannot be put back for every trial."""
        found = {}
        for name, part in self.parts.items():
            try:
                found[name] = parts.copied(part)
            except UnsavableError as error:
                self.session.note(f"{error} In the search it goes on from trial to trial.")
        return found

    def begin_stateful(self) -> None:
        """Let callbacks that keep a state, and the user's parts, begin where they were before the search."""
        for name, state in self.states.items():
            self.parts[name].state.load_state_dict(deepcopy(state))
        listening, note = self.session.callback_handler.callbacks, self.session.note
        states.restore(listening, deepcopy(self.callbacks[0]), note)
        states.restore_dicts(listening, deepcopy(self.callbacks[1]), note)

    def restore(self) -> None:
        """Give the trainer its own arguments back, and what follows from them."""
        self.session.args = self.args
        self.session.run_folder = Path(self.args.output_dir or ".")
        self.session.trial = self.session.trial_report = None
        self.begin_stateful()
        setup.follow(self.session)


def changed_arguments(args: Any, values: dict[str, Any]) -> Any:
    """Return arguments of a trial: a copy that shares nothing with the others.

    Raises:
        ConfigError: a name that is no argument, or one that cannot be changed any more, or a value that cannot work.
    """
    known = [f.name for kind in (args, ArgumentFields) for f in fields(kind)]
    changed = copy(args)
    for name in dict.fromkeys(known):
        if isinstance(getattr(args, name, None), dict | list):
            setattr(changed, name, deepcopy(getattr(args, name)))
    if args.eval_steps == args.logging_steps:
        changed.eval_steps = None  # it follows from the other, if nothing else is said
    if args.greater_is_better == (not str(args.metric_for_best_model).endswith("loss")):
        changed.greater_is_better = None
    for name, value in values.items():
        if name not in known and name not in _TWINS:
            raise ConfigError(f"hp_space gives '{name}', which is no argument.{did_you_mean(name, known)}")
        if name in _OF_THE_PROCESS:
            raise ConfigError(f"hp_space gives '{name}', which takes effect when the Trainer is made, for all trials.")
        if name in REPLACED:
            REPLACED[name][1](value)  # raises where it is none of that name's
        for one in {name, _TWINS.get(name, name)}.intersection(known):
            setattr(changed, one, value)
    check(changed)
    return changed


def _best(trial: Any) -> BestRun:
    objective = trial.value if len(trial.values) == 1 else list(trial.values)
    return BestRun(str(trial.number), objective, dict(trial.params))
