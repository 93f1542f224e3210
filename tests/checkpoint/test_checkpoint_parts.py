"""Parts that the user adds to what checkpoints keep: `checkpoint_parts={name: object with state_dict}`."""

from __future__ import annotations

import os
import signal
import sys

import pytest
import torch
from torch import nn

from tests import forked, tiny
from trainwright import CheckpointError, ConfigError, SaveError, Trainer, TrainerCallback, TrainingArguments
from trainwright.checkpoint import layout
from trainwright.checkpoint.parts import Exchange, Opened, Part, restore, trees
from trainwright.errors import UnsavableError
from trainwright.parallel.strategy import Strategy
from trainwright.saving import save
from trainwright.world import World

STEPS = 8


class Critic(TrainerCallback):
    """A second network with an optimizer of its own, trained beside the model, and what it was told."""

    def __init__(self):
        torch.manual_seed(1)
        self.net = nn.Linear(2, 1)
        self.optimizer = torch.optim.Adam(self.net.parameters(), 0.1)
        self.seen = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.optimizer.zero_grad()
        self.net(model.layer.weight.detach().flatten()[:2]).square().sum().backward()
        self.optimizer.step()
        self.seen.append(state.global_step)

    def on_evaluate(self, args, state, control, **kwargs):
        self.seen.append("evaluated")

    def keep(self):
        return {"seen": self.seen}

    def keep_on(self, state):
        self.seen = state["seen"]

    @property
    def parts(self):
        return {"critic": self.net, "optimizer": self.optimizer, "seen": Exchange(self.keep, self.keep_on)}


class Ends(TrainerCallback):
    """Ends the run in its own way: at a step, or in the evaluation of one."""

    def __init__(self, how, event="step_end", step=5):
        self.how, self.event, self.step = how, event, step

    def on_step_end(self, args, state, control, **kwargs):
        self.act("step_end", state)

    def on_evaluate(self, args, state, control, **kwargs):
        self.act("evaluate", state)

    def act(self, event, state):
        if (event, state.global_step) == (self.event, self.step):
            self.how()


def fails():
    raise KeyError("of the user's")


def made(place, critic=None, parts=None, more=(), **changes):
    settings = {"max_steps": STEPS, "save_steps": 3, "eval_strategy": "steps", "eval_steps": 4, "learning_rate": 0.1}
    settings |= {"per_device_train_batch_size": 4, "use_cpu": True, "disable_tqdm": True, "report_to": "none"}
    data = {"train_dataset": tiny.line_rows(), "eval_dataset": tiny.line_rows(4)}
    callbacks = [one for one in (critic, *more) if one is not None]
    parts = critic.parts if parts is None and critic is not None else parts
    args = TrainingArguments(str(place), **settings | changes)
    return Trainer(tiny.new_line(), args, callbacks=callbacks, checkpoint_parts=parts, **data)


def same(one, other):
    """Whether two critics are one another bitwise, moments and all."""
    pairs = zip(one.optimizer.state.values(), other.optimizer.state.values(), strict=True)
    alike = all(torch.equal(a[name], b[name]) for a, b in pairs for name in a)
    return alike and torch.equal(one.net.weight, other.net.weight) and one.seen == other.seen


@pytest.fixture
def straight(tmp_path):
    critic = Critic()
    made(tmp_path / "straight", critic).train()
    return critic


@pytest.mark.parametrize(
    ("how", "event", "step"),
    [
        (lambda: signal.raise_signal(signal.SIGTERM), "step_end", 5),
        (fails, "evaluate", 4),  # what was told in the evaluation comes again
        (lambda: signal.raise_signal(signal.SIGTERM), "evaluate", 4),
    ],
    ids=["signal", "failed evaluation", "signal in an evaluation"],
)
def test_parts_go_on_bitwise(tmp_path, straight, how, event, step):
    with pytest.raises((SystemExit, KeyError)):
        made(tmp_path / "run", Critic(), more=[Ends(how, event, step)]).train()
    critic = Critic()
    made(tmp_path / "run", critic).train(resume_from_checkpoint=True)
    assert same(critic, straight)


@pytest.mark.slow
def test_parts_of_a_killed_run_go_on_bitwise(tmp_path, straight):
    done = forked.run(["-m", "tests.checkpoint.test_checkpoint_parts", tmp_path / "run"])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert max(map(layout.step_of, layout.checkpoints(tmp_path / "run"))) < 7
    critic = Critic()
    made(tmp_path / "run", critic).train(resume_from_checkpoint=True)
    assert same(critic, straight)


def test_a_part_that_only_one_side_knows_is_named(tmp_path, caplog):
    made(tmp_path, Critic(), eval_strategy="no", max_steps=3).train()
    other = {"other": nn.Linear(1, 1)}
    made(tmp_path, parts=other, eval_strategy="no").train(resume_from_checkpoint=True)
    place = tmp_path / "checkpoint-3"
    assert f"'{place}' keeps nothing of the part 'other'; it begins anew." in caplog.text
    assert f"'{place}' keeps 'critic', 'optimizer', 'seen', which are in no checkpoint_parts now." in caplog.text


def test_a_checkpoint_of_the_model_alone_names_the_parts_that_begin_anew(tmp_path, caplog):
    made(tmp_path, Critic(), max_steps=3, save_only_model=True).train()
    assert not list(tmp_path.glob("*/rng_state*"))
    made(tmp_path, Critic(), save_only_model=True).train(resume_from_checkpoint=True)
    told = "optimizer, the part 'critic', the part 'optimizer', the part 'seen' and random numbers begin anew"
    assert told in caplog.text


FAULTS = {
    "cannot be kept": (lambda: {"rule": [fails]}, None, "The state of the part 'mine'['rule'][0] is a function, which"),
    "cannot be asked": (fails, None, "The part 'mine' cannot be saved: its state_dict() failed (KeyError: "),
    "cannot be given": (dict, fails, "keeps of it: its load_state_dict() failed (KeyError: "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_part_with_a_fault_is_named_in_a_sentence(tmp_path, fault):
    state_dict, load, told = FAULTS[fault]
    part = Exchange(state_dict, lambda state: load() if load else None)
    trainer = made(tmp_path, parts={"mine": part}, max_steps=4)
    if load is None:
        with pytest.raises(SaveError) as caught:
            trainer.train()
        assert not layout.checkpoints(tmp_path)
    else:
        trainer.train()
        with pytest.raises(CheckpointError) as caught:
            made(tmp_path, parts={"mine": part}).train(resume_from_checkpoint=True)
    assert told in str(caught.value)


@pytest.mark.parametrize("given", [[nn.Linear(1, 1)], nn.Linear(1, 1)], ids=["list", "module"])
def test_parts_without_names_are_refused_in_a_sentence(tmp_path, given):
    with pytest.raises(ConfigError, match=r"checkpoint_parts is a (list|Linear); it must be a dict of names and"):
        made(tmp_path, parts=given)


class Gives(TrainerCallback):
    """Changes the parts of a run that trains, at the end of a step."""

    def __init__(self, parts, step):
        self.given, self.step = parts, step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.trainer.checkpoint_parts.update(self.given)


def constant(value):
    part = nn.Linear(1, 1)
    nn.init.constant_(part.weight, value)
    return part


def test_parts_that_are_given_or_replaced_while_a_run_trains_are_kept(tmp_path):
    gives = Gives({"late": constant(5.0), "critic": constant(7.0)}, step=2)
    gives.trainer = made(tmp_path, parts={"critic": constant(1.0)}, more=[gives], eval_strategy="no", max_steps=3)
    gives.trainer.train()
    now = {"late": constant(0.0), "critic": constant(0.0)}
    made(tmp_path, parts=now, eval_strategy="no").train(resume_from_checkpoint=True)
    assert {name: part.weight.item() for name, part in now.items()} == {"late": 5, "critic": 7}


def test_what_is_given_while_a_run_trains_and_is_no_part_costs_no_step(tmp_path, caplog):
    gives = Gives({"late": object()}, step=4)
    gives.trainer = made(tmp_path, parts={}, more=[gives], eval_strategy="no", max_steps=7)
    with pytest.raises(SaveError, match=r"checkpoint_parts\['late'\] is a object"):
        gives.trainer.train()
    assert gives.trainer.state.global_step == 7
    assert [place.name for place in layout.checkpoints(tmp_path)] == ["checkpoint-3"]


class Grows(TrainerCallback):
    """Adds 1 to parts after every step; notes what the first was when training began."""

    def __init__(self, *parts):
        self.parts, self.began = parts, []

    def on_train_begin(self, args, state, control, **kwargs):
        self.began.append(self.parts[0].weight.item())

    def on_step_end(self, args, state, control, **kwargs):
        for part in self.parts:
            part.weight.data += 1


def falling():
    left = iter(range(100, 0, -1))
    return lambda outputs: {"score": next(left)}


@pytest.mark.parametrize("alone", [False, True], ids=["all", "the model alone"])
def test_the_best_model_comes_with_the_modules_of_its_checkpoint(tmp_path, caplog, alone):
    critic, counter = constant(0.0), constant(0.0)
    parts = {"critic": critic, "counter": Exchange(counter.state_dict, counter.load_state_dict)}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "score", "greater_is_better": True}
    steps = {"save_steps": 2, "eval_steps": 2, "max_steps": 6, "save_only_model": alone}
    trainer = made(tmp_path, parts=parts, more=[Grows(critic, counter)], **best, **steps)
    trainer.compute_metrics = falling()
    trainer.train()
    assert trainer.state.best_global_step == 2
    assert (critic.weight.item(), counter.weight.item()) == ((6, 6) if alone else (2, 6))
    told = ", with the parts 'critic' as they were there; the parts 'counter' stay as the last step left them."
    assert ("; the parts 'critic', 'counter' stay as the last step left them." if alone else told) in caplog.text


def test_parts_begin_every_trial_of_a_search_as_they_were(tmp_path):
    pytest.importorskip("optuna", reason="optuna is in the extra `hpo`")
    critic = constant(3.0)
    grows = Grows(critic)
    args = TrainingArguments(str(tmp_path), max_steps=2, use_cpu=True, disable_tqdm=True, report_to="none")
    data = {"train_dataset": tiny.line_rows(), "eval_dataset": tiny.line_rows(4)}
    trainer = Trainer(
        None, args, model_init=lambda: tiny.new_line(), callbacks=[grows], checkpoint_parts={"critic": critic}, **data
    )
    trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 0.01, 0.1)}, n_trials=2
    )
    assert grows.began == [3, 3]
    assert critic.weight.item() == 3


def test_an_object_that_is_no_part_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"checkpoint_parts\['rows'\] is a list; a part .* needs state_dict\(\)"):
        made(tmp_path, parts={"rows": []})
    trainer = made(tmp_path)
    trainer.checkpoint_parts["rows"] = []
    with pytest.raises(ConfigError, match=r"checkpoint_parts\['rows'\]"):
        trainer.train()
    assert not list(tmp_path.iterdir())


class Versioned(nn.Module):
    """Translates states of its first version, as FrozenBatchNorm2d of detectron2 does."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.register_buffer("variance", torch.ones(1))

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if (metadata.get("version") or 1) < 2:
            state[prefix + "variance"] = state[prefix + "variance"] * 10
        super()._load_from_state_dict(state, prefix, metadata, *rest)


@pytest.mark.parametrize("push", [False, True], ids=["in the background", "while the loop waits"])
def test_what_torch_gives_back_a_part_gives_back(tmp_path, push):
    """Against torch.save and torch.load: lazy bits, what requires gradients, versions of modules, no surplus memory."""
    z, log_alpha = torch.tensor([1 + 2j]), torch.zeros(1, requires_grad=True)
    state = {
        "conjugate": z.conj(),
        "negative": z.clone().conj().imag,
        "view": torch.arange(1_000_000.0)[10:13],
        "parameter": nn.Parameter(torch.ones(2)),
        "frozen": nn.Parameter(torch.ones(2), requires_grad=False),
        "log_alpha": log_alpha,
        "sparse": torch.eye(3).to_sparse(),
        "module": Versioned().state_dict(),
    }
    torch.save(state, tmp_path / "state.pt")
    wanted, found = torch.load(tmp_path / "state.pt", weights_only=True), {}
    more = [Hears()] if push else []
    made(tmp_path, parts={"mine": Exchange(lambda: state, found.update)}, more=more, max_steps=3).train()
    assert (tmp_path / "checkpoint-3" / layout.of_rank(0, 1)).stat().st_size < 100_000
    mine = {"mine": Exchange(lambda: {}, found.update)}
    made(tmp_path, parts=mine, max_steps=4, save_strategy="no").train(resume_from_checkpoint=True)
    module = Versioned()
    module.load_state_dict(found.pop("module"))
    assert module.variance.item() == 1
    for name, tensor in found.items():
        assert tensor.layout == wanted[name].layout
        assert torch.equal(tensor.to_dense(), wanted[name].to_dense())
        assert (type(tensor), tensor.requires_grad) == (type(wanted[name]), wanted[name].requires_grad)


def test_a_module_of_the_model_that_has_a_version_goes_on_as_it_was(tmp_path):
    def built():
        model = tiny.new_line()
        model.add_module("norm", Versioned())
        args = TrainingArguments(str(tmp_path), max_steps=2, use_cpu=True, disable_tqdm=True, report_to="none")
        return Trainer(model, args, train_dataset=tiny.line_rows())

    built().train()
    trainer = built()
    trainer.train(resume_from_checkpoint=True)
    assert trainer.model.norm.variance.item() == 1


class Hears(TrainerCallback):
    """Looks at every checkpoint, so that the loop waits for it."""

    def on_save(self, args, state, control, **kwargs):
        pass


class Live(dict):
    """A dict that another thread fills while it is read."""

    def items(self):
        raise RuntimeError("dictionary changed size during iteration")


def test_a_state_that_changes_while_it_is_read_costs_one_checkpoint(tmp_path, caplog):
    trainer = made(tmp_path, parts={}, eval_strategy="no", save_steps=2, max_steps=6)
    mine = Exchange(lambda: Live(a=1) if trainer.state.global_step == 4 else {"a": 1}, lambda state: None)
    trainer.checkpoint_parts["mine"] = mine
    trainer.train()
    assert [place.name for place in layout.checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-6"]
    assert "The state of the part 'mine' cannot be kept: reading it failed (RuntimeError: dictionary ch" in caplog.text


def test_a_save_that_is_not_there_is_never_claimed(tmp_path, monkeypatch, caplog):
    def taken(run):
        if run.session.state.global_step == 4:
            raise RuntimeError("of any kind")
        return rank_state(run)

    rank_state = save.rank_state
    monkeypatch.setattr(save, "rank_state", taken)
    with pytest.raises(RuntimeError, match="of any kind"):
        made(tmp_path, eval_strategy="no", save_steps=2).train()
    assert [place.name for place in layout.checkpoints(tmp_path)] == ["checkpoint-2"]
    assert "saved at step" not in caplog.text


def test_a_save_that_another_rank_refuses_leaves_nothing_behind(tmp_path, monkeypatch, caplog):
    trainer = made(tmp_path, eval_strategy="no", save_steps=2, max_steps=6)
    gather = trainer.strategy.gather

    def of_two(value):
        other = UnsavableError("Refused there.") if value is None and trainer.state.global_step == 4 else value
        return [*gather(value), other] if value is None else gather(value)

    monkeypatch.setattr(trainer.strategy, "gather", of_two)
    monkeypatch.setattr("trainwright.checkpoint.folder.sweep", lambda place: None)
    trainer.train()
    assert "Refused there. Training goes on" in caplog.text
    assert [place.name for place in layout.checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-6"]
    assert not list(tmp_path.glob(".checkpoint-checkpoint-*"))


def part(found, **where):
    return Part(state=Exchange(lambda: found, found.update), title="The state", **where)


def test_a_rank_without_a_file_of_its_own_is_given_what_all_share(tmp_path):
    """Of a run of two ranks, gone on with by three."""
    for rank in range(2):
        kept = {"shared": part({"rank": rank}, key=("a", "b"), on_all=True), "own": part({"rank": rank}, key=("c",))}
        tree = trees(kept, {})
        assert tree == {layout.RANK: {"a": {"b": {"rank": rank}}, "c": {"rank": rank}}}
        torch.save(tree[layout.RANK], tmp_path / layout.of_rank(rank, 2))
    torch.save({}, tmp_path / layout.OPTIMIZER)
    for rank, shared, own in ((0, 0, 0), (1, 1, 1), (2, 0, None)):
        found, lacking = [{}, {}], []
        here = {
            "shared": part(found[0], key=("a", "b"), on_all=True),
            "own": part(found[1], key=("c",), lacking=lacking.append),
        }
        strategy = Strategy()
        strategy.world = World(rank, rank, 3)
        restore(here, Opened(tmp_path, strategy))
        assert found == [{"rank": shared}, {} if own is None else {"rank": own}]
        assert lacking == ([False] if own is None else [])


if __name__ == "__main__":
    made(sys.argv[1], Critic(), more=[Ends(lambda: os.kill(os.getpid(), signal.SIGKILL), step=7)]).train()
