"""Search on several ranks: `torchrun --nproc-per-node 2 tests/ranks/searching.py FOLDER`."""

from __future__ import annotations

import functools
import sys
import warnings
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.ranks import launch, tiny_rows
from trainwright import Trainer
from trainwright.world import current_world

torch.set_num_threads(1)
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class Scaled(tiny_rows.Net):
    """Has inputs of another size, as its trial says."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def predict(self, x, number):
        return super().predict(x * self.scale, number)


def model_init(trial: Any) -> nn.Module:
    return Scaled(1.0 if trial is None else trial.suggest_float("scale", 0.5, 2.0))


def hp_space(trial: Any) -> dict[str, Any]:
    """Draw a rate together, and a decay that differs by rank."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True),
        "weight_decay": trial.params["learning_rate"] * (1 + current_world().rank),
    }


class Third(optuna.pruners.BasePruner):
    """Prunes every third trial at its second report."""

    def prune(self, study, trial):
        return trial.number % 3 == 2 and len(trial.intermediate_values) == 2


def stop_after_two(study: optuna.Study, trial: Any) -> None:
    if trial.number == 1:
        study.stop()


def search(
    place: Path, n_trials: int = 4, fails: tuple[int, ...] = (), judges: Any = None, **settings: Any
) -> dict[str, Any]:
    """Search; keep what every trial was on this rank, as its Trainer has it."""
    args = tiny_rows.arguments(place, max_steps=3, eval_strategy="steps", eval_steps=1)
    data = tiny_rows.rows(10)
    trainer = Trainer(None, args, model_init=model_init, train_dataset=data, eval_dataset=data)
    seen: dict[str, Any] = {}

    def compute_objective(metrics):
        if trainer.trial.number == 1 and current_world().rank in fails:
            raise ValueError("no objective here")
        seen[trainer.run_folder.name] = [
            trainer.args.learning_rate, trainer.args.weight_decay, trainer.state.global_step,
            dict(trainer.state.trial_params), tiny_rows.weights(trainer.model),
        ]  # fmt: skip
        loss = metrics["eval_loss"] * (1 + current_world().rank)
        return (loss, -loss) if judges == "two" else loss

    best = trainer.hyperparameter_search(
        hp_space, compute_objective, n_trials, hp_name=lambda trial: f"{trial.number}-{current_world().rank}",
        **{"sampler": optuna.samplers.RandomSampler(seed=3), **settings},
    )  # fmt: skip
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{place}/hyperparameter_search.db")
    return {
        "seen": seen,
        "best": best,
        "states": [trial.state.name for trial in study.trials],
        "objectives": [trial.values for trial in study.trials],
        "rate": trainer.args.learning_rate,
    }


def in_pieces(place: Path) -> dict[str, Any]:
    """Search for two trials, and go on with the same call."""
    first = search(place, 2, sampler=None)["seen"]
    found = search(place, 4, sampler=None)
    return {**found, "seen": {**first, **found["seen"]}}


def refused(place: Path) -> dict[str, Any]:
    """Search in another direction than before."""
    search(place, 1)
    return search(place, 2, direction="maximize")


EQUAL: dict[str, launch.Case] = {
    "a search": search,
    "a search with the default sampler": functools.partial(search, sampler=None),
    "a search in pieces": in_pieces,
    "a search that prunes": functools.partial(search, pruner=Third()),
    "a search for two": functools.partial(search, judges="two", direction=["minimize", "maximize"]),
    "a search that is stopped": functools.partial(search, callbacks=[stop_after_two]),
    "a search with a failing trial": functools.partial(search, fails=(0, 1), catch=(ValueError,)),
}
CASES = {
    **EQUAL,
    "a search that fails": functools.partial(search, fails=(0, 1)),
    "a search that fails on rank 0": functools.partial(search, fails=(0,)),
    "a search that fails on rank 1": functools.partial(search, fails=(1,), catch=(ValueError,)),
    "a search in another direction": refused,
}

if __name__ == "__main__":
    launch.run_all(CASES, sys.argv[2:])
