"""What a Trainer shows is what lies in its session, however a subclass or a script sets or overrides it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from tests import tiny
from trainwright import Trainer, TrainingArguments
from trainwright.trainer.face import session_of


def arguments(folder, **more):
    return TrainingArguments(str(folder), max_steps=2, disable_tqdm=True, report_to="none", use_cpu=True, **more)


def line(folder, kind=Trainer, **more):
    return kind(tiny.new_line(), arguments(folder), train_dataset=tiny.line_rows(), **more)


def weights(trainer):
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


def is_same(one, other):
    return all(torch.equal(mine, others) for mine, others in zip(one, other, strict=True))


class RowsByProperty(Trainer):
    """Its rows are a property of its own, which counts how often they are asked for."""

    asked = 0

    @property
    def train_dataset(self):
        self.asked += 1
        return self.kept

    @train_dataset.setter
    def train_dataset(self, rows):
        self.kept = rows


class RateByProperty(Trainer):
    """Its arguments are a property without a place in the session."""

    @property
    def args(self):
        return self.__dict__["own_args"]

    @args.setter
    def args(self, args):
        self.__dict__["own_args"] = args


class SetsBefore(Trainer):
    """Sets an attribute before `Trainer.__init__`, and another after it."""

    def __init__(self, *given, **named):
        self.generation = None
        self.state = "is replaced"
        super().__init__(*given, **named)
        self.goes_on = "once more"


class WordByClass(Trainer):
    """Has an attribute of the Trainer's as one of the class."""

    goes_on = "again"


@pytest.mark.parametrize("kind", [RowsByProperty, RateByProperty, SetsBefore, WordByClass])
def test_a_subclass_that_has_an_attribute_in_its_own_way_trains_as_trainer_does(tmp_path, kind):
    plain, own = line(tmp_path / "plain"), line(tmp_path / "own", kind)
    plain.train()
    own.train()
    assert is_same(weights(plain), weights(own))


def test_the_engine_asks_a_property_of_a_subclass(tmp_path):
    trainer = line(tmp_path, RowsByProperty)
    before = trainer.asked
    trainer.train()
    assert trainer.asked > before
    assert session_of(trainer).train_dataset is trainer.kept
    session_of(trainer).train_dataset = other = tiny.line_rows()
    assert trainer.kept is other
    assert session_of(line(tmp_path, WordByClass)).goes_on == "again"
    assert session_of(line(tmp_path, SetsBefore)).goes_on == "once more"


def test_what_is_set_on_a_trainer_is_what_the_engine_trains(tmp_path):
    trainer = line(tmp_path)
    before = weights(trainer)
    trainer.model = other = tiny.new_line()
    trainer.train()
    assert trainer.model is other is session_of(trainer).model
    assert not is_same(before, weights(trainer))


def test_a_function_put_onto_the_instance_is_called(tmp_path):
    trainer = line(tmp_path)
    plain, seen = trainer.training_step, []

    def step(model, inputs, num_items_in_batch=None):
        seen.append(trainer.state.global_step)
        return plain(model, inputs, num_items_in_batch)

    trainer.training_step = step
    trainer.train()
    assert seen == [0, 1]


def copied(trainer):
    return pickle.loads(pickle.dumps(trainer))


@pytest.mark.parametrize("kind", [Trainer, RowsByProperty, WordByClass])
@pytest.mark.parametrize("twin", [copied, copy.deepcopy], ids=["pickle", "deepcopy"])
def test_a_copy_of_a_trainer_is_one_of_its_own(tmp_path, kind, twin):
    trainer = line(tmp_path, kind)
    other = twin(trainer)
    assert session_of(other).hooks is other
    assert other.model is not trainer.model
    trainer.train()
    assert not is_same(weights(trainer), weights(other))
    other.train()
    assert is_same(weights(trainer), weights(other))


@pytest.mark.parametrize("kind", [Trainer, RowsByProperty])
def test_a_shallow_copy_shares_the_parts_and_not_the_attributes(tmp_path, kind):
    trainer = line(tmp_path, kind)
    other = copy.copy(trainer)
    assert other.model is trainer.model
    other.eval_dataset = other.train_dataset = rows = tiny.line_rows(4)
    assert trainer.eval_dataset is None
    assert trainer.train_dataset is not rows
    assert session_of(other).hooks is other


def test_names_that_the_engine_keeps_for_itself_are_the_users_to_take(tmp_path):
    trainer = line(tmp_path)
    trainer.noise, trainer.rule, trainer.compiled = 0.1, "mine", True
    trainer.train()
    assert (trainer.noise, trainer.rule, trainer.compiled) == (0.1, "mine", True)


def test_an_evaluation_that_fails_leaves_nothing_of_what_was_known_of_it(tmp_path):
    trainer = line(tmp_path, eval_dataset={"first": tiny.line_rows(4)})
    seen = []

    def fail(*given, **named):
        seen.append(session_of(trainer).evaluation.set_name)
        raise RuntimeError("out of patience")

    trainer.evaluation_loop = fail
    with pytest.raises(RuntimeError, match="out of patience"):
        trainer.evaluate()
    assert seen == ["first"]
    assert session_of(trainer).evaluation.set_name is None
