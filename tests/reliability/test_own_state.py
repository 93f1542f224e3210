"""What the user's own parts keep for themselves goes on too: callbacks, buffers that are not saved with the model."""

from __future__ import annotations

import functools
import json
import logging
import random
import signal
import weakref

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from tests.reliability import cases
from trainwright import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, randomness
from trainwright.checkpoint import folder, layout
from trainwright.held import held_by

STOPPED = 9


class StopAt(TrainerCallback):
    """Sends this process a SIGTERM at a step."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == STOPPED:
            signal.raise_signal(signal.SIGTERM)


def made(place, model=cases.Net, callbacks=(), data=None, seed=0, **changes):
    settings = {
        "per_device_train_batch_size": 4,
        "max_steps": 20,
        "save_steps": 5,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    torch.manual_seed(seed)
    return Trainer(
        model(),
        TrainingArguments(str(place), **{**settings, **changes}),
        train_dataset=cases.rows() if data is None else data,
        eval_dataset=cases.rows(8),
        callbacks=list(callbacks),
        compute_metrics=lambda outputs: {"never_better": 1.0},
    )


def resumed(place, build, **changes):
    """Return the trainer of a run that was stopped by SIGTERM at step 9 and resumed from other weights and seeds."""
    first = build(place, **changes)
    first.add_callback(StopAt())
    with pytest.raises(SystemExit):
        first.train()
    torch.manual_seed(77)
    second = build(place, seed=99, **changes)
    second.train(resume_from_checkpoint=True)
    return second


def test_a_callback_that_knows_its_trainer_holds_no_generators_of_it(tmp_path, caplog):
    class Knows(TrainerCallback):
        trainer = None

    def build(place, seed=0, **changes):
        trainer = made(place, callbacks=[knows := Knows()], seed=seed, **changes)
        knows.trainer = trainer
        return trainer

    resumed(tmp_path, build, eval_strategy="steps", eval_steps=2)
    assert "random generators" not in caplog.text


WATCHED = {
    "eval_strategy": "steps",
    "eval_steps": 2,
    "metric_for_best_model": "never_better",
    "greater_is_better": True,
}


class Counting(TrainerCallback):
    """Counts steps: `own` says under which of the two forms of state."""

    def __init__(self, by):
        self.by = by
        self.count = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.count += self.by


class Exported(Counting):
    def state(self):
        return {"args": {"by": self.by}, "attributes": {"count": self.count}}


class WithDict(Counting):
    def state_dict(self):
        return {"count": torch.tensor(self.count)}

    def load_state_dict(self, state):
        self.count = int(state["count"])


class Broken(TrainerCallback):
    """Its state can be saved, and not put back."""

    def state(self):
        return {"args": {}, "attributes": {"fixed": 1}}

    @property
    def fixed(self):
        return 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [EarlyStoppingCallback, transformers.EarlyStoppingCallback])
@pytest.mark.parametrize("restored", [True, False])
def test_early_stopping_ends_where_the_straight_run_does(tmp_path, restored, kind):
    def build(place, **changes):
        return made(place, callbacks=[kind(early_stopping_patience=4)], **WATCHED, **changes)

    straight = build(tmp_path / "straight")
    straight.train()
    assert straight.state.global_step == 10  # the first evaluation is the best, and four more follow
    changes = {} if restored else {"restore_callback_states_from_checkpoint": False}
    made_twice = resumed(tmp_path / "resumed", build, **changes)
    assert made_twice.state.global_step == (10 if restored else 16)
    if restored:  # the run is complete: another start trains no further step, and a larger patience does
        again = build(tmp_path / "resumed")
        again.train(resume_from_checkpoint=True)
        assert again.state.global_step == 10
        longer = made(tmp_path / "resumed", callbacks=[kind(early_stopping_patience=6)], **WATCHED)
        longer.train(resume_from_checkpoint=True)
        assert longer.state.global_step == 14


def test_two_callbacks_of_a_class_keep_two_states(tmp_path):
    counters = [[Exported(1), Exported(10), WithDict(2), WithDict(20)] for _ in range(2)]
    left = list(counters)
    second = resumed(tmp_path, lambda place, **changes: made(place, callbacks=left.pop(0), **changes))
    assert [counter.count for counter in counters[1]] == [20, 200, 40, 400]
    assert second.state.global_step == 20


class Best(TrainerCallback):
    """What was seen of a number, under a key of its own where it has one."""

    def __init__(self, name, key=None):
        self.name, self.state_key, self.seen = name, key, None

    def on_step_end(self, args, state, control, **kwargs):
        self.seen = self.name

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


class Sees(TrainerCallback):
    """What callbacks had when the training began."""

    def __init__(self, others):
        self.others, self.seen = others, []

    def on_train_begin(self, args, state, control, **kwargs):
        self.seen = [one.seen for one in self.others]


ORDERS = {
    "keys": ([("a", "k.a"), ("b", "k.b")], [("b", "k.b"), ("a", "k.a")], ["b", "a"], None),
    "keys, one left out": ([("a", "k.a"), ("b", "k.b")], [("b", "k.b")], ["b"], "keeps a state of k.a, which no "),
    "one left out": ([("a", None), ("b", None)], [("b", None)], [None], "which is whose is not known"),
    "one more": ([("a", None)], [("b", None), ("a", None)], [None, None], "which is whose is not known"),
    "order alone": ([("a", None), ("b", None)], [("a", None), ("b", None)], ["a", "b"], "by their order alone"),
    "a new one": ([("a", "k.a")], [("a", "k.a"), ("b", "k.b")], ["a", None], "keeps no state of k.b"),
}


@pytest.mark.parametrize("case", ORDERS)
def test_callbacks_of_a_class_never_swap_their_states_silently(tmp_path, caplog, case):
    before, now, wanted, told = ORDERS[case]
    made(tmp_path, callbacks=[Best(*one) for one in before], max_steps=5).train()
    caplog.clear()
    callbacks = [Best(*one) for one in now]
    sees = Sees(callbacks)
    made(tmp_path, callbacks=[*callbacks, sees], max_steps=6).train(resume_from_checkpoint=True)
    assert sees.seen == wanted
    assert told in caplog.text if told else "A state_key" not in caplog.text


def test_callbacks_with_arguments_are_told_apart_by_them(tmp_path, caplog):
    made(tmp_path, callbacks=[Exported(1), Exported(10)], max_steps=5).train()
    ten, one = Exported(10), Exported(1)
    made(tmp_path, callbacks=[ten, one], max_steps=6).train(resume_from_checkpoint=True)
    assert (one.count, ten.count) == (6, 60)
    assert "instead of the checkpoint's" not in caplog.text


def test_callbacks_that_were_added_or_cannot_go_on_do_not_break_the_resume(tmp_path, caplog):
    callbacks = [[Exported(1), Broken()], [Exported(10), Exported(1), Broken()]]
    with caplog.at_level(logging.WARNING, logger="trainwright"):
        resumed(tmp_path, lambda place, **changes: made(place, callbacks=callbacks.pop(0), **changes))
    kept = callbacks  # both lists are used up
    assert not kept
    assert "1 callbacks Exported were saved, none like this one" in caplog.text
    assert "The state of Broken cannot be restored" in caplog.text


class Awkward(Counting):
    """Has properties of the names that callbacks with a state have, and no way to ask for them."""

    @property
    def state(self):
        raise RuntimeError("not started")

    @property
    def state_dict(self):
        raise RuntimeError("not started")

    def load_state_dict(self, state):
        raise AssertionError


class Unsavable(WithDict):
    """Keeps a function, which no checkpoint can, in both forms."""

    def state(self):
        return {"args": {}, "attributes": {"found": print}}

    def state_dict(self):
        return {"count": self.count, "name": lambda: self.count}


def test_callbacks_whose_state_cannot_be_kept_cost_no_checkpoint(tmp_path, caplog):
    def build():
        return made(tmp_path, callbacks=[Awkward(1), Unsavable(1), WithDict(1)])

    build().train()
    assert [path.name for path in layout.checkpoints(tmp_path)] == [f"checkpoint-{n}" for n in (5, 10, 15, 20)]
    assert caplog.text.count("The state of Unsavable['name'] is a function") == 1
    assert caplog.text.count("The state of Unsavable['attributes']['found'] is a ") == 1
    assert caplog.text.count("The checkpoints are without the state of Unsavable.") == 2
    kept = json.loads((tmp_path / "checkpoint-20" / layout.STATE).read_text())["stateful_callbacks"]
    assert kept["Unsavable"] == {"args": {}, "attributes": {}}
    again = build()
    again.train(resume_from_checkpoint=True)
    counts = {type(one): one.count for one in again.callback_handler.callbacks if isinstance(one, Counting)}
    assert counts == {Awkward: 0, Unsavable: 0, WithDict: 20}


def test_a_state_that_is_not_saved_is_not_asked_for(tmp_path):
    calls = []

    class Expensive(WithDict):
        def state_dict(self):
            calls.append(1)
            return super().state_dict()

    made(tmp_path, callbacks=[Expensive(1)], **WATCHED, save_strategy="no").train()
    assert not calls


class Proxy:
    """Stands for something that is not there now."""

    @property
    def __class__(self):
        raise RuntimeError("outside of its context")

    def __getattribute__(self, name):
        raise RuntimeError("outside of its context")


class Lazy(dict):
    def __getitem__(self, key):
        raise RuntimeError("asleep")

    items = keys = __iter__ = __getitem__


class Nameless:
    def __repr__(self):
        raise RuntimeError("has no name")


class Short(list):
    def __getitem__(self, number):
        raise RuntimeError("loads from a server")


def test_the_search_for_generators_runs_no_code_of_the_objects():
    gone = nn.Linear(1, 1)
    parts = {
        "proxy": Proxy(), "dead": weakref.proxy(gone), "lazy": Lazy(a=random.Random(1)),
        "nameless": {Nameless(): 1}, "short": Short([random.Random(2)]), "last": random.Random(3),
    }  # fmt: skip
    del gone
    assert list(held_by({"parts": parts})) == ["parts['last']", "parts['lazy']['a']", "parts['short'][0]"]


class Remembers(cases.Net):
    """Keeps the mean of every batch in a buffer that is saved with it, and another one that the first step makes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("memory", torch.zeros(0))
        self.register_buffer("first", None)

    def forward(self, x, labels=None):
        if self.training:
            self.memory = torch.cat([self.memory, x.detach().mean().reshape(1)])
            self.first = x.detach()[0] if self.first is None else self.first
        outputs = super().forward(x, labels)
        return {**outputs, "loss": outputs["loss"] + outputs["logits"].mean() * self.memory.sum() * self.first.sum()}


def test_buffers_that_have_grown_go_on(tmp_path):
    straight = made(tmp_path / "straight", Remembers)
    straight.train()
    assert straight.model.memory.shape == (20,)
    again = resumed(tmp_path / "resumed", functools.partial(made, model=Remembers))
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


class Momentum(nn.Module):
    """Three kinds of buffers: written in place, replaced in the forward pass, and never changed; none is saved."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.register_buffer("mean", torch.zeros(4), persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("scale", torch.full((4,), 0.5), persistent=False)

    def forward(self, x, labels=None):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            self.steps += 1
        prediction = self.layer((x - self.mean) * self.scale / (1 + 0.1 * self.steps)).squeeze(-1)
        return {"loss": ((prediction - labels) ** 2).mean(), "logits": prediction}


def test_buffers_that_are_not_saved_with_the_model_go_on(tmp_path):
    straight = made(tmp_path / "straight", Momentum)
    straight.train()
    second = resumed(tmp_path / "resumed", lambda place, **changes: made(place, Momentum, **changes))
    for name, buffer in straight.model.named_buffers():
        assert torch.equal(buffer, dict(second.model.named_buffers())[name]), name
    for mine, its in zip(straight.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(mine, its)
    kept = torch.load(tmp_path / "resumed" / "checkpoint-20" / "rng_state.pth", weights_only=False)["buffers"]
    assert sorted(kept) == ["mean", "steps"]


class Normed(nn.Module):
    def __init__(self, momentum):
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(4, momentum=momentum), nn.Linear(4, 1)
        self.register_buffer("replaced", torch.zeros(()))

    def forward(self, x, labels=None):
        self.replaced = self.replaced + x.sum()
        return {"loss": ((self.out(self.norm(x)).squeeze(-1) - labels) ** 2).mean()}


@pytest.mark.parametrize("momentum", [0.1, None])  # None: the counter decides what a step weighs
def test_counters_and_replaced_buffers_do_not_move_in_a_bad_step(tmp_path, momentum):
    data = cases.rows()
    data[9] = {**data[9], "x": torch.full((4,), float("nan"))}
    trainer = made(tmp_path, lambda: Normed(momentum), data=data, max_steps=6, train_sampling_strategy="sequential")
    trainer.train()
    assert trainer.model.norm.num_batches_tracked == 5
    assert torch.isfinite(trainer.model.replaced)
    torch.manual_seed(0)
    by_hand = nn.BatchNorm1d(4, momentum=momentum)
    for batch in torch.stack([row["x"] for row in data]).split(4)[:6]:
        if torch.isfinite(batch).all():
            by_hand(batch)
    assert torch.equal(trainer.model.norm.running_mean, by_hand.running_mean)


SCRIPT_S_OWN = np.random.default_rng(21)


class Noisy(nn.Module):
    """Draws in its forward pass from a generator of its own, one of a part of it, and one of the script."""

    def __init__(self):
        super().__init__()
        self.body = cases.Net()
        self.body.extra = random.Random(4)
        self.noise = torch.Generator().manual_seed(3)

    def forward(self, x, labels=None):
        scale = 1 + 0.1 * self.body.extra.random() + 0.1 * SCRIPT_S_OWN.random()
        return self.body(scale * x + 0.1 * torch.randn(x.shape, generator=self.noise), labels)


class Rows(torch.utils.data.Dataset):
    """Map-style rows with noise from generators deep within the dataset."""

    def __init__(self):
        self.rows = cases.rows()
        self.transforms = [{"shift": np.random.RandomState(1)}, functools.partial(shifted, generator=random.Random(2))]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        moved = self.rows[index]["x"] + float(self.transforms[0]["shift"].rand())
        return {**self.rows[index], "x": self.transforms[1](moved)}


def shifted(x, generator):
    return x + generator.random()


class Collator:
    """A collator that makes its generator in the first batch, as those of transformers do."""

    def __init__(self):
        self.generator = None

    def __call__(self, rows):
        if self.generator is None:
            info = torch.utils.data.get_worker_info()
            self.generator = torch.Generator().manual_seed(7 + (info.id if info else 0))
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        return {**batch, "x": batch["x"] + torch.randn(batch["x"].shape, generator=self.generator)}


class OwnStream(torch.utils.data.IterableDataset):
    """A stream with noise from its own generator, which it does not speak of in its state."""

    def __init__(self, has_state):
        self.next = 0
        self.noise = np.random.default_rng(5)
        if has_state:
            self.state_dict, self.load_state_dict = self._state, self._load

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        mine = cases.rows()[info.id :: info.num_workers] if info else cases.rows()
        while self.next < len(mine):
            self.next += 1
            row = mine[self.next - 1]
            yield {**row, "x": row["x"] + self.noise.random()}
        self.next = 0

    def _state(self):
        return {"next": self.next}

    def _load(self, state):
        self.next = state["next"]


WORKERS = {"dataloader_num_workers": 2}
GENERATORS = {
    "of a model": (Noisy, cases.rows, None, {}),
    "of a dataset": (cases.Net, Rows, None, {}),
    "of a dataset, workers": (cases.Net, Rows, None, WORKERS),
    "of a collator": (cases.Net, cases.rows, Collator, {}),
    "of a collator, workers": (cases.Net, cases.rows, Collator, WORKERS),
    "of a stream's collator": (cases.Net, cases.Stream, Collator, {}),
    "of a stream": (cases.Net, lambda: OwnStream(False), None, {}),
    "of a stream, workers that stay": (
        cases.Net,
        lambda: OwnStream(False),
        None,
        {**WORKERS, "dataloader_persistent_workers": True},
    ),
    "of a stream with state": (cases.Net, lambda: OwnStream(True), None, {}),
    "of a stream with state, workers": (cases.Net, lambda: OwnStream(True), None, WORKERS),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Every case once straight and once resumed, in one process: what is made anew is made from other seeds."""
    found = {}
    for name, (model, data, collator, changes) in GENERATORS.items():
        place = tmp_path_factory.mktemp("generators")

        def build(where, seed=0, model=model, data=data, collator=collator, changes=changes):
            SCRIPT_S_OWN.bit_generator.state = np.random.default_rng(21 + seed).bit_generator.state
            trainer = made(where, model, data=data(), seed=seed, **changes)
            trainer.data_collator = collator() if collator else trainer.data_collator
            return trainer

        straight = build(place / "straight")
        straight.train()
        found[name] = [[p.detach().clone() for p in made.model.parameters()]
                       for made in (straight, resumed(place / "resumed", build))]  # fmt: skip
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATORS)
def test_generators_of_the_user_s_own_go_on(outcomes, name):
    for straight, again in zip(*outcomes[name], strict=True):
        assert torch.equal(straight, again)


@pytest.mark.slow  # its runs are those of the test before
def test_the_same_noise_with_and_without_workers(outcomes):
    for what in ("of a dataset", "of a collator"):
        for alone, with_workers in zip(outcomes[what][0], outcomes[f"{what}, workers"][0], strict=True):
            assert torch.equal(alone, with_workers)


def test_masks_of_transformers_follow_the_collator_s_seed(tmp_path):
    from transformers import BertTokenizer, DataCollatorForLanguageModeling

    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(97, 123))])
    )
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    data = [{"input_ids": list(range(5, 25))} for _ in range(26)]

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.seen = nn.Embedding(40, 40), []

        def forward(self, input_ids, labels=None, attention_mask=None, token_type_ids=None):
            self.seen.append(labels.tolist())
            return {"loss": nn.functional.cross_entropy(self.table(input_ids).flatten(0, 1), labels.flatten())}

    def masks(seed, workers, resume=False):
        trainer = made(tmp_path / f"{seed} {workers}", Masked, data=data, max_steps=10, dataloader_num_workers=workers)
        trainer.data_collator = DataCollatorForLanguageModeling(tokenizer, seed=seed)
        where = tmp_path / f"{seed} {workers}" / "checkpoint-5"
        trainer.train(resume_from_checkpoint=str(where) if resume else None)
        return trainer.model.seen

    straight = masks(7, 0)
    assert masks(7, 2)[-10:] == straight[-10:]
    assert masks(7, 0, resume=True)[-5:] == straight[-5:]
    assert masks(8, 0)[-10:] != straight[-10:]


def test_every_kind_of_generator_is_saved_and_found_again(tmp_path):
    numpy_s = [np.random.Philox, np.random.SFC64, np.random.MT19937, np.random.PCG64DXSM]
    kept = [*(np.random.Generator(kind(1)) for kind in numpy_s), np.random.RandomState(1), random.Random(1)]
    torch.save(randomness.own_states(kept), tmp_path / "states")
    draws = [lambda g=g: g.random() if hasattr(g, "random") else g.rand() for g in kept]
    first = [[draw() for _ in range(3)] for draw in draws]
    randomness.restore_own(folder.load(tmp_path / "states"), kept)
    assert [[draw() for _ in range(3)] for draw in draws] == first


def test_a_generator_that_is_not_there_yet_is_named(tmp_path, caplog):
    class Late(cases.Net):
        noise = None

        def forward(self, x, labels=None):
            self.noise = self.noise or torch.Generator().manual_seed(3)
            return super().forward(x + torch.randn(x.shape, generator=self.noise), labels)

    with caplog.at_level(logging.WARNING, logger="trainwright"):
        resumed(tmp_path, lambda place, **changes: made(place, Late, **changes))
    assert "Of the random generators model.noise the checkpoint has some" in caplog.text


def test_a_generator_without_a_state_is_named(tmp_path, caplog):
    model = cases.Net()
    model.noise = random.SystemRandom()
    with caplog.at_level(logging.WARNING, logger="trainwright"):
        made(tmp_path, lambda: model, max_steps=1).train()
    assert "model.noise draws from random.SystemRandom, which cannot be put back" in caplog.text


DRAWS = {
    "a number": random.random,
    "half of a pair": lambda: random.gauss(0, 1),
    "the other half": lambda: random.gauss(0, 1),
    "as many words as there are": lambda: random.getrandbits(32 * 624),
    "a seed": lambda: random.seed(1),
    "another seed": lambda: random.seed(2),
    "of numpy": lambda: np.random.rand(312),
    "of numpy, a pair": lambda: np.random.randn(),
    "of numpy, the other half": lambda: np.random.randn(),
    "of torch": lambda: torch.rand(1),
}


def test_streams_are_read_again_when_they_were_used():
    def listed(states):
        return states["python"], [np.asarray(part).tolist() for part in states["numpy"]], states["cpu"].tolist()

    streams = randomness.Streams()
    for draw in DRAWS.values():
        before = listed(randomness.host_states())
        kept = streams.state_dict()
        assert listed(kept) == before
        assert streams.state_dict()["python"] is kept["python"]  # not read anew
        draw()
        assert listed(streams.state_dict()) == listed(randomness.host_states()) != before
