"""Hyperparameter search: every argument of a trial takes effect, trials share nothing, and a search goes on."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch.nn import functional

from tests import tiny
from trainwright import ConfigError, EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from trainwright.parallel.strategy import Strategy
from trainwright.trainer.trials import Trials
from trainwright.world import World

optuna = pytest.importorskip("optuna", reason="optuna is in the extra `hpo`")
optuna.logging.set_verbosity(optuna.logging.ERROR)


def arguments(folder, **changes):
    settings = {
        "max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "no", "use_cpu": True,
        "disable_tqdm": True, "report_to": "none", "learning_rate": 0.01, "per_device_train_batch_size": 4,
    }  # fmt: skip
    return TrainingArguments(str(folder), **{**settings, **changes})


class Classes(torch.nn.Module):
    """Three classes, with other names for its inputs where it is asked for."""

    def __init__(self, doubled=False):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 3)
        self.doubled = doubled

    def forward(self, x, labels=None):
        logits = self.layer(x * 2 if self.doubled else x)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


class TwoInputs(Classes):
    def forward(self, x, z, labels=None, **kwargs):
        return super().forward(x + z, labels)


def classes(count=12):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 2, 4, generator=generator)
    return [{"x": x[i, 0], "z": x[i, 1], "labels": torch.tensor(i % 3)} for i in range(count)]


def trainer_of(folder, model_init=lambda: Classes(), rows=None, callbacks=(), compute_metrics=None, **changes):
    rows = classes() if rows is None else rows
    return Trainer(
        None, arguments(folder, **changes), model_init=model_init, train_dataset=rows, eval_dataset=rows,
        callbacks=list(callbacks), compute_metrics=compute_metrics,
    )  # fmt: skip


def choices(name, values):
    return {
        "hp_space": lambda trial: {name: trial.suggest_categorical(name, values)},
        "sampler": optuna.samplers.GridSampler({name: values}, seed=0),
        "n_trials": len(values),
    }


def values_of(folder, study="search"):
    storage = f"sqlite:///{folder}/hyperparameter_search.db"
    return optuna.load_study(study_name=study, storage=storage).trials


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("label_smoothing_factor", [0.5, 0.0, 0.2]),
        ("bf16", [True, False]),
        ("per_device_train_batch_size", [3, 4]),
        ("warmup_ratio", [0.5, 0.0]),
        ("seed", [1, 2]),
    ],
)
def test_an_argument_of_a_trial_takes_effect_and_is_undone(tmp_path, name, values):
    trainer = trainer_of(tmp_path / "search")
    trainer.hyperparameter_search(**choices(name, values))
    found = {trial.params[name]: trial.value for trial in values_of(tmp_path / "search")}
    for value in values:
        alone = trainer_of(tmp_path / "alone", **{"warmup_steps" if name == "warmup_ratio" else name: value})
        alone.train()
        assert found[value] == alone.evaluate()["eval_loss"]
    assert len(set(found.values())) == len(values)
    after = trainer.evaluate()["eval_loss"]  # as the arguments say again
    same = Trainer(trainer.model, arguments(tmp_path / "same"), eval_dataset=classes())
    assert after == same.evaluate()["eval_loss"]


def test_what_follows_from_an_argument_follows_in_a_trial(tmp_path):
    seen = []

    class Sees(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            model = kwargs["model"]
            seen.append((args.greater_is_better, args.eval_steps, getattr(model, "is_gradient_checkpointing", None)))

    def metrics(prediction):
        return {"accuracy": 0.5}

    rows = tiny.tokens(8)
    trainer = Trainer(
        None, arguments(tmp_path, eval_steps=None, logging_steps=2, metric_for_best_model="loss"),
        model_init=lambda: tiny.llama(), train_dataset=rows, eval_dataset=rows, callbacks=[Sees()],
        compute_metrics=metrics,
    )  # fmt: skip
    point = {"metric_for_best_model": "accuracy", "logging_steps": 1, "gradient_checkpointing": True}
    best = trainer.hyperparameter_search(lambda trial: point, n_trials=1)
    assert seen == [(True, 1, True)]
    assert best.objective == 0.5
    assert (trainer.args.greater_is_better, trainer.args.eval_steps) == (False, 2)


def test_a_model_of_another_kind_is_known_as_what_it_is(tmp_path):
    def model_init(trial=None):
        return TwoInputs() if trial is not None and trial.suggest_categorical("two", [True, False]) else Classes()

    trainer = trainer_of(tmp_path / "search", model_init)
    accepted = []

    class Sees(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            accepted.append((type(kwargs["model"]).__name__, trainer.model_accepts_loss_kwargs))

    trainer.add_callback(Sees())
    trainer.hyperparameter_search(
        lambda trial: {}, n_trials=2, sampler=optuna.samplers.GridSampler({"two": [True, False]}, seed=0)
    )
    found = {trial.params["two"]: trial.value for trial in values_of(tmp_path / "search")}
    for two, kind in ((True, TwoInputs), (False, Classes)):
        alone = trainer_of(tmp_path / "alone", lambda: kind())  # noqa: B023
        alone.train()
        assert found[two] == alone.evaluate()["eval_loss"]
    assert sorted(accepted) == [("Classes", False), ("TwoInputs", True)]


def test_generation_is_set_in_every_trial(tmp_path):
    from trainwright import Seq2SeqTrainer, Seq2SeqTrainingArguments

    own = transformers.GenerationConfig(max_length=7, num_beams=2)
    args = Seq2SeqTrainingArguments(
        tmp_path,
        max_steps=1,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        generation_config=own,
    )
    rows = tiny.tokens(8)
    trainer = Seq2SeqTrainer(None, args, model_init=lambda: tiny.llama(), train_dataset=rows)
    trainer.train()
    assert (trainer.model.generation_config.max_length, trainer.model.generation_config.num_beams) == (7, 2)


@pytest.mark.parametrize("kind", [EarlyStoppingCallback, transformers.EarlyStoppingCallback])
def test_trials_share_no_state_of_callbacks_nor_dictionaries(tmp_path, kind):
    steps = []

    class Sees(TrainerCallback):
        def on_train_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)
            args.lr_scheduler_kwargs["num_cycles"] += 1

    def metrics(prediction):
        return {"score": 1.0}

    trainer = trainer_of(
        tmp_path, callbacks=[kind(3), Sees()], compute_metrics=metrics, max_steps=6, metric_for_best_model="score",
        lr_scheduler_type="cosine_with_restarts", lr_scheduler_kwargs={"num_cycles": 1},
    )  # fmt: skip
    trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-2)}, n_trials=3
    )
    assert steps == [4, 4, 4]
    assert trainer.args.lr_scheduler_kwargs == {"num_cycles": 1}


def search(folder, n_trials, **settings):
    trainer = trainer_of(folder, max_steps=1)
    trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-2)}, n_trials=n_trials, **settings
    )
    return [trial.params["learning_rate"] for trial in values_of(folder)]


@pytest.mark.slow
def test_a_search_that_goes_on_draws_the_points_of_one_that_was_not_stopped(tmp_path):
    straight = search(tmp_path / "straight", 12)  # beyond the 10 that TPE draws blindly
    for number in (3, 11, 12):
        found = search(tmp_path / "pieces", number)
    assert found == straight
    assert len(set(found)) == 12


@pytest.mark.slow
@pytest.mark.parametrize("kind", [optuna.samplers.RandomSampler, optuna.samplers.TPESampler])
def test_a_seeded_sampler_does_not_repeat_the_points_of_the_search_that_goes_on(tmp_path, kind):
    for number in (1, 2, 3):
        found = search(tmp_path, number, sampler=kind(seed=0))
    assert len(set(found)) == 3


def test_a_search_is_not_continued_in_another_direction(tmp_path):
    search(tmp_path, 1, direction="maximize")
    with pytest.raises(ConfigError, match=r"direction='minimize', but the 1 trials of the search 'search' .* maximize"):
        search(tmp_path, 2)
    with pytest.raises(ConfigError, match="n_jobs=2: trials follow one another"):
        search(tmp_path, 2, direction="maximize", n_jobs=2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"direction": "up"}, "direction='up' is not known; it is 'minimize' or 'maximize'"),
        ({"n_trials": 0}, "n_trials=0 tries nothing"),
        ({"hp_space": {"learning_rate": [1, 2]}}, "it must be a function, which is called with"),
        ({"hp_space": lambda trial: None}, "hp_space returned nothing"),
        ({"compute_objective": lambda metrics: None}, "compute_objective returned nothing .* it must return a number"),
    ],
)
def test_what_no_search_can_do_is_refused(tmp_path, given, said):
    with pytest.raises(ConfigError, match=said):
        trainer_of(tmp_path).hyperparameter_search(**{"hp_space": lambda trial: {}, "n_trials": 1, **given})


@pytest.mark.parametrize(
    ("name", "said"), [("output_dir", "when the Trainer is made"), ("learning_rat", "Did you mean 'learning_rate'")]
)
def test_what_no_trial_can_change_is_refused(tmp_path, name, said):
    with pytest.raises(ConfigError, match=said):
        trainer_of(tmp_path).hyperparameter_search(lambda trial: {name: "there"}, n_trials=1)


def test_the_default_objective_is_that_of_transformers_for_several_sets(tmp_path):
    def metrics(prediction):
        chosen = torch.as_tensor(prediction.predictions).argmax(-1)
        return {"accuracy": float((chosen == torch.as_tensor(prediction.label_ids)).float().mean()), "rows": 1.0}

    sets = {"near": classes(12), "far": classes(7)}
    theirs = transformers.Trainer(
        Classes(),
        transformers.TrainingArguments(str(tmp_path / "theirs"), use_cpu=True, disable_tqdm=True, report_to="none"),
        eval_dataset=sets, compute_metrics=metrics,
    )  # fmt: skip

    def judged(rows=None):
        found = {name: value for name, value in theirs.evaluate(rows).items() if "preparation_time" not in name}
        return transformers.trainer_utils.default_compute_objective(found)

    def best(rows, compute_metrics, kind=Trainer, **changes):
        args = arguments(tmp_path / "ours", max_steps=1, learning_rate=0.0, **changes)
        trainer = kind(
            None,
            args,
            model_init=lambda: Classes(),
            train_dataset=classes(),
            eval_dataset=rows,
            compute_metrics=compute_metrics,
        )
        return trainer.hyperparameter_search(lambda trial: {}, n_trials=1, storage=None).objective

    assert best(sets, metrics) == pytest.approx(judged(), rel=1e-6)
    assert best(sets["far"], metrics) == pytest.approx(judged(sets["far"]), rel=1e-6)
    one = theirs.evaluate(sets["far"])
    assert best(sets["far"], None) == pytest.approx(one["eval_loss"], rel=1e-6)
    named = best(sets, metrics, metric_for_best_model="far_accuracy")  # the one that was named, and no sum
    assert named == pytest.approx(theirs.evaluate()["eval_far_accuracy"], rel=1e-6)

    class Recording(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False):
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
            losses = {"loss": loss, "twice": 2 * loss}
            return (losses, outputs) if return_outputs else losses

    assert best(sets["far"], None, Recording) == pytest.approx(one["eval_loss"], rel=1e-6)
    with pytest.raises(ConfigError, match="eval_curve is a list. Name the one that counts"):
        best(sets["far"], lambda prediction: {"curve": [1.0, 2.0]})


class OutOfStep(Strategy):
    """One of two ranks, of which the other one is elsewhere."""

    def all_here(self, place, value):
        return None


@pytest.mark.parametrize("rank", [0, 1])
def test_a_trial_that_fails_on_one_rank_alone_ends_the_search_whatever_is_caught(rank):
    def train(trial):
        raise ValueError("here alone")

    strategy = OutOfStep()
    strategy.world, strategy.is_distributed = World(rank, size=2), True
    trials = Trials(strategy, train)
    study = optuna.create_study()
    with pytest.raises(ValueError, match="here alone") as told:
        trials.search(lambda: study.optimize(trials.objective, n_trials=5, catch=(ValueError,)))
    assert told.value.__notes__ == ["Not all ranks failed in this trial, so the search ends with it."]
    assert len(study.trials) == (rank == 0)


def test_a_share_of_warm_up_is_never_a_number_of_steps(tmp_path):
    with pytest.raises(ConfigError, match="warmup_ratio=2 is no share of the run"):
        trainer_of(tmp_path).hyperparameter_search(**choices("warmup_ratio", [2]))
