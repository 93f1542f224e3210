"""Whatever form observations, actions and answers of environments have, they mean the same."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.tasks.imitation import point
from tests.tasks.imitation.test_data import lerobot
from trainwright import ConfigError, DataError
from trainwright.tasks.imitation.actor import Actor
from trainwright.tasks.imitation.episodes import Episode, as_classes, read_episodes, split, write_npz
from trainwright.tasks.imitation.experts import record
from trainwright.tasks.imitation.observations import plain
from trainwright.tasks.imitation.policies.normalize import statistics
from trainwright.tasks.imitation.policies.policy import MlpPolicy
from trainwright.tasks.imitation.rollout import Rollouts, fitting
from trainwright.tasks.imitation.run import demonstrations, new_policy, parts
from trainwright.tasks.imitation.show import draw_returns
from trainwright.tasks.imitation.success import flags
from trainwright.tasks.imitation.windows import Together, Windows

WINDOW = {"history": 1, "chunk": 1}
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 12, 10, 3), dtype=np.uint8)
FORMS = {
    "uint8": PIXELS,
    "floats": (PIXELS / 255).astype(np.float32),
    "doubles": PIXELS / 255,
    "whole numbers": PIXELS.astype(np.int64),
    "channels first": PIXELS.transpose(0, 3, 1, 2),
    "floats, channels first": (PIXELS / 255).transpose(0, 3, 1, 2),
}


def seen_by_the_network(images, policy=None):
    made = Episode({"camera": images}, np.zeros((6, 1)))
    policy = policy or new_policy({"kind": "mlp", "seed": 0}, [made], False, WINDOW)
    caught = []
    policy.features.backbone["camera"].register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    policy.predict({"camera": torch.from_numpy(made.observations["camera"])[:, None]})
    return caught[0]


@pytest.mark.parametrize("form", FORMS)
def test_pixels_of_every_form_are_the_same_to_the_network(form):
    wanted = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).double() / 255  # torchvision's to_tensor
    torch.testing.assert_close(seen_by_the_network(FORMS[form]).double(), wanted, atol=1e-6, rtol=0)


def test_an_environment_may_show_pixels_in_another_form_than_the_demonstrations():
    made = Episode({"camera": PIXELS}, np.zeros((6, 2)))
    policy = new_policy({"kind": "mlp", "seed": 0}, [made], False, WINDOW).eval()
    said = [Actor(policy, range(6)).act({"camera": images}) for images in FORMS.values()]
    for one in said:
        np.testing.assert_allclose(one, said[0], atol=1e-5)


def test_floats_are_moved_as_bytes_are():
    rows = [Windows([Episode({"camera": FORMS[form]}, np.zeros((6, 1)))])[0] for form in ("uint8", "floats")]
    batches = []
    for row in rows:
        torch.manual_seed(3)
        batches.append(Together(shift=2)([row, row])["observation"]["camera"])
    torch.testing.assert_close(batches[1], batches[0].float() / 255, atol=1e-6, rtol=0)
    assert not torch.equal(batches[0][0], batches[0][1])


def test_episodes_of_bytes_and_of_floats_are_the_same_in_a_batch():
    made = [Episode({"camera": FORMS[form]}, np.zeros((6, 1))) for form in ("uint8", "floats", "channels first")]
    windows = Windows(made)
    seen = Together()([windows[0], windows[6], windows[12]])["observation"]["camera"]
    wanted = torch.from_numpy(PIXELS[:1]).double() / 255
    torch.testing.assert_close(seen.double(), wanted.expand(3, 1, *PIXELS.shape[1:]), atol=1e-6, rtol=0)


def test_names_with_dots_are_names(tmp_path):
    rng = np.random.default_rng(1)
    made = [Episode({"state.joints": rng.normal(5, 3, (6, 2)), "images.top": PIXELS}, rng.normal(size=(6, 1)))]
    policy = new_policy({"kind": "mlp", "seed": 0}, made, False, WINDOW)
    joints = made[0].observations["state.joints"]
    normal = policy.normalizer("state.joints", torch.from_numpy(joints))
    torch.testing.assert_close(normal.double(), torch.from_numpy((joints - joints.mean(0)) / joints.std(0)).double(),
                               atol=1e-5, rtol=0)  # fmt: skip
    seen = Together()([Windows(made)[0]])["observation"]
    policy.eval().save_pretrained(tmp_path)
    torch.testing.assert_close(MlpPolicy.from_pretrained(tmp_path).eval().predict(seen), policy.predict(seen))


def test_an_observation_with_the_actions_name_is_refused_and_not_dropped():
    made = Episode({"action": np.zeros((4, 2)), "state": np.zeros((4, 2))}, np.zeros((4, 1)))
    with pytest.raises(DataError, match="an observation 'action'.*another name"):
        new_policy({"kind": "mlp"}, [made], False, WINDOW)


def test_an_episode_without_steps_is_named(tmp_path):
    np.savez(tmp_path / "none.npz", **{"observation.state": np.zeros((0, 2)), "action": np.zeros((0, 1))})
    with pytest.raises(DataError, match="there are 0 actions"):
        read_episodes(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("values", "expected"),
    [(np.arange(4), (4, 1)), (np.ones((4, 5), bool), (4, 5)), (np.zeros((4, 8, 8)), (4, 64)),
     (np.zeros((4, 5, 3), np.float16), (4, 15)), (np.zeros((4, 9), np.uint8), (4, 9)),
     (np.zeros((4, 8, 7), np.uint8), (4, 8, 7, 1))],
    ids=["scalars", "switches", "depth", "points", "bytes", "grey"],
)  # fmt: skip
def test_observations_of_any_shape_reach_the_network(values, expected):
    assert plain("seen", values).shape == expected
    made = Episode({"seen": values, "state": np.zeros((4, 2))}, np.zeros((4, 1)))
    policy = new_policy({"kind": "mlp"}, [made], False, WINDOW)
    assert policy.sees == {"seen": expected[1:], "state": (2,)}
    if len(expected) == 2:
        np.testing.assert_array_equal(made.observations["seen"], values.reshape(4, -1).astype(np.float32))


@pytest.mark.parametrize(
    ("values", "message"),
    [(np.array(["a", "b"]), "'seen' holds <U1, which is no number"),
     (np.array([{"bytes": b""}, None]), "'seen' holds object, which is no number"),
     (np.zeros((2, 3, 4, 4, 3)), r"'seen' has the shape \(3, 4, 4, 3\)"),
     (np.zeros((2, 8, 3, 8), np.uint8), "neither the first nor the last"),
     (np.full((2, 8, 8, 3), 200.0), "'seen' holds float64 from 200 to 200; 0 to 1 is expected"),
     (np.full((2, 8, 8, 3), -0.5), "'seen' holds float64 from -0.5 to -0.5"),
     (np.full((2, 8, 8, 3), np.nan), "'seen' holds float64 from nan to nan"),
     (np.full((2, 8, 8, 1), 3000, np.uint16), "'seen' holds uint16 from 3000 to 3000; 0 to 255 is expected")],
)  # fmt: skip
def test_observations_that_cannot_be_are_refused_by_name(tmp_path, values, message):
    with pytest.raises(DataError, match=message):
        plain("seen", values)
    if values.dtype != object:
        np.savez(tmp_path / "a.npz", **{"action": np.zeros((2, 1)), "observation.seen": values})
        with pytest.raises(DataError, match=rf"Episode 0 of '.*a.npz': .*{message}"):
            read_episodes(tmp_path / "a.npz")


def test_episodes_that_see_other_things_are_named():
    made = point.episodes(2)
    other = Episode({"state": np.zeros((5, 3))}, np.zeros((5, 2)))
    with pytest.raises(DataError, match=r"Episode 2 has 'state' of the shape \(3,\), but episode 0 of the shape"):
        new_policy({}, [*made, other], False, WINDOW)
    more = Episode({"state": np.zeros((5, 2)), "more": np.zeros(5)}, np.zeros((5, 2)))
    with pytest.raises(DataError, match=r"Episode 2 has 'more' of the shape \(1,\), but episode 0 of none"):
        new_policy({}, [*made, more], False, WINDOW)
    broken = Episode({"state": np.full((5, 2), np.nan)}, np.zeros((5, 2)))
    with pytest.raises(DataError, match="Episode 2 has 'state' with numbers that are not finite"):
        new_policy({}, [*made, broken], False, WINDOW)
    with pytest.raises(DataError, match="The policy sees 'state', but the environment shows camera"):
        new_policy({}, made, False, WINDOW).act({"camera": PIXELS[0]})


TAKEN = np.array([0, 1, 2, 1, 0, 2])


@pytest.mark.parametrize(
    "actions",
    [TAKEN, TAKEN[:, None], TAKEN.astype(np.float64), np.eye(3)[TAKEN]],
    ids=["numbers", "a column", "floats", "columns"],
)
def test_actions_of_class_numbers_are_classes(actions):
    made = as_classes([Episode({"state": np.random.default_rng(0).normal(size=(6, 2))}, actions)])
    policy = new_policy({"kind": "mlp", "seed": 0}, made, True, WINDOW)
    row = Together()([Windows(made)[number] for number in range(6)])
    said = policy.said(row["observation"]).squeeze(-1)[:, 0]
    wanted = functional.cross_entropy(said, torch.from_numpy(TAKEN))
    torch.testing.assert_close(policy(**row)["loss"], wanted)
    assert policy.eval().act(np.zeros(2, np.float32)) in (0, 1, 2)


@pytest.mark.parametrize(
    ("actions", "message"),
    [(np.array([0.5, 1.0]), "an action is 0.5; whole numbers from 0 on are expected"),
     (np.array([-1, 1]), "an action is -1"), (np.array([np.nan, 1]), "an action is nan"),
     (np.array([[0.2, 0.8], [1.0, 0.0]]), "the actions are 2 numbers that are no classes"),
     (np.array([[1, 1], [1, 0]]), "the actions are 2 numbers that are no classes")],
)  # fmt: skip
def test_actions_that_are_no_classes_are_refused(actions, message):
    with pytest.raises(DataError, match=message):
        as_classes([Episode({"state": np.zeros((2, 2))}, actions)])


@pytest.mark.parametrize(
    ("policy", "message"),
    [({"kind": "act"}, "policy.kind act says numbers; kind mlp says classes"),
     ({"kind": "diffusion"}, "policy.kind diffusion says numbers"), ({"bins": 3}, "the actions are classes already"),
     ({"normalization": {"action": "min_max"}}, "has no effect on discrete actions"),
     ({"execute": 2, "ensemble": 0.1}, "policy.execute and policy.ensemble exclude each other"),
     ({"normalization": {"sate": "min_max"}}, "unknown key 'sate'. Did you mean 'state'"),
     ({"normalization_masks": {"camera": [True]}}, "normalization_masks: unknown name 'camera'")],
)  # fmt: skip
def test_settings_of_policies_that_do_not_go_together(policy, message):
    made = as_classes([Episode({"state": np.zeros((6, 2))}, TAKEN)])
    with pytest.raises(ConfigError, match=message):
        new_policy(policy, made, True, WINDOW)


@pytest.mark.parametrize("kind", ["mean_std", "min_max", "percentile"])
@pytest.mark.parametrize("size", [5e-5, 1.0, 4e6])
def test_numbers_are_constant_by_their_own_size(kind, size):
    values = np.random.default_rng(0).normal(size=(100, 3)) * size
    values[:, 1] = size * (1 + 1e-8 * values[:, 1] / size)  # rounding
    values[:, 2] = 0
    shift, scale = statistics(values, kind)
    brought = (values - shift) / scale
    assert brought[:, 1:].std(axis=0).max() < 1e-6 * max(size, 1)
    spread = {"mean_std": brought[:, 0].std(), "min_max": np.ptp(brought[:, 0]) / 2,
              "percentile": np.diff(np.percentile(brought[:, 0], [1, 99]))[0] / 2}[kind]  # fmt: skip
    assert spread == pytest.approx(1)
    assert scale[1:].tolist() == [1, 1]


# a constant, a range that a mask leaves as it is, small numbers, a plain range
RANGES = np.stack([np.full(9, 0.5), np.linspace(-4, 4, 9), np.linspace(-5e-5, 5e-5, 9), np.linspace(0, 10, 9)], axis=1)
MASK = {"action": [True, False, True, True]}


@pytest.mark.parametrize("bins", [2, 9, 16])
def test_binned_actions_come_back(bins):
    made = Episode({"state": np.zeros((9, 1))}, RANGES)
    policy = new_policy({"bins": bins, "normalization_masks": MASK}, [made], False, WINDOW).eval()
    batch = Together()([Windows([made])[number] for number in range(9)])
    logits = torch.zeros(9, 1, 4, bins, requires_grad=True)
    policy.said = lambda _: logits
    policy(**batch)["loss"].backward()
    asked = logits.grad.argmin(-1)  # of a cross-entropy only the wanted class's gradient is negative
    policy.said = lambda _: functional.one_hot(asked, bins).float()
    back = policy.predict(batch["observation"])[:, 0].double().numpy()
    assert back[:, 0].tolist() == [0.5] * 9
    half_a_step = np.ptp(RANGES, axis=0) / (bins - 1) / 2
    assert (np.abs(back - RANGES) <= half_a_step * (1 + 1e-5) + 1e-12).all()


def test_diffused_actions_come_back():
    made = Episode({"state": np.zeros((9, 1))}, RANGES)
    section = {"kind": "diffusion", "width": 8, "depth": 1, "normalization_masks": MASK}
    policy = new_policy(section, [made], False, WINDOW).eval()
    actions = torch.from_numpy(made.actions)[:, None]
    clean = policy.normalizer("action", actions)

    def ideal(noisy, step, seen):  # the noise itself, by equation 4 of Ho et al. 2020
        kept = policy.kept[step].view(-1, 1, 1)
        return (noisy - kept.sqrt() * clean) / (1 - kept).sqrt()

    policy.guess = ideal
    back = policy.predict({"state": torch.zeros(9, 1, 1)}, [torch.Generator().manual_seed(n) for n in range(9)])
    torch.testing.assert_close(back, actions, atol=1e-9, rtol=2e-4)
    assert (back[:, 0, 0] == 0.5).all()
    policy.guess = lambda noisy, step, seen: -100 * torch.ones_like(noisy)
    far = policy.predict({"state": torch.zeros(9, 1, 1)})[:, 0]
    reach = torch.from_numpy(RANGES.mean(axis=0) + 0.75 * np.ptp(RANGES, axis=0)).float()
    torch.testing.assert_close(far, reach.expand(9, 4))  # half as far again as what was demonstrated


@pytest.mark.parametrize("kind", ["mlp", "diffusion"])
def test_an_episode_depends_on_its_own_seed_alone(kind):
    section = {"kind": kind, "seed": 0, "width": 16, "depth": 1}
    policy = new_policy(section, point.episodes(3), False, {"history": 1, "chunk": 4}).eval()
    results = {}
    for count, first in ((12, 100), (4, 100), (1, 100), (1, 103), (3, 109)):
        rollouts = Rollouts(point.NAME, episodes=count, seed=first, workers=0, success="terminated")
        for one in rollouts.run(policy):
            results.setdefault(one.seed, []).append((one.total, one.length, one.success))
        rollouts.close()
    assert sorted(results) == list(range(100, 112))
    assert [len(results[seed]) for seed in (100, 103, 110)] == [3, 3, 2]
    for found in results.values():
        for total, length, success in found:
            assert (length, success) == found[0][1:]
            assert total == pytest.approx(found[0][0], rel=1e-5)  # of a network in float32, alone or in a batch


class Says(gymnasium.Env):
    """Ten steps; says at the third, in some episodes, that it is a success, and in others that it is none."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.kind, self.steps = (seed or 0) % 3, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        said = {0: {"is_success": True}, 1: {"success": False}, 2: {}}[self.kind] if self.steps == 3 else {}
        return np.zeros(1, np.float32), 0.0, self.steps == 10, False, said


def test_success_is_each_environments_own():
    if "tests/Says-v0" not in gymnasium.registry:
        gymnasium.register("tests/Says-v0", Says)
    made = [Episode({"state": np.zeros((4, 1))}, np.zeros((4, 1)))]
    policy = new_policy({"kind": "mlp"}, made, False, WINDOW).eval()
    for success, expected in ((None, [True, False, None]), ("terminated", [True, False, True]),
                              ("info", [True, False, False]), (0, [True, True, True])):  # fmt: skip
        together = Rollouts("tests/Says-v0", episodes=7, seed=0, workers=0, success=success)
        assert [one.success for one in together.run(policy)] == [*expected, *expected, expected[0]]
        alone = [Rollouts("tests/Says-v0", episodes=1, seed=seed, workers=0, success=success) for seed in range(3)]
        assert [one.run(policy)[0].success for one in alone] == expected
        for one in (together, *alone):
            one.close()
    told, value = flags({"is_success": np.array([True, False]), "_is_success": np.array([False, True])}, 2)
    assert (told.tolist(), value.tolist()) == ([False, True], [False, False])


def test_actions_fit_their_space():
    spaces = gymnasium.spaces
    assert fitting(np.array([0, 2]), spaces.Discrete(3, start=5)).tolist() == [5, 7]
    several = fitting(np.array([[1.9, -3.0], [0.2, 9.0]]), spaces.MultiDiscrete([3, 4]))
    assert several.tolist() == [[2, 0], [0, 3]]
    assert fitting(np.array([[0.8, 0.2]]), spaces.MultiBinary(2)).tolist() == [[1, 0]]
    box = spaces.Box(-1, 1, (1, 2), np.float32)
    assert fitting(np.array([[3.0, -0.5]]), box).tolist() == [[[1.0, -0.5]]]


class Counts(Says):
    """Takes the actions 5 to 7, and rewards the 6."""

    action_space = gymnasium.spaces.Discrete(3, start=5)

    def step(self, action):
        assert self.action_space.contains(action)
        seen, _, over, late, _ = super().step(action)
        return seen, float(action == 6), over, late, {}


def test_actions_that_do_not_count_from_0():
    if "tests/Counts-v0" not in gymnasium.registry:
        gymnasium.register("tests/Counts-v0", Counts)
    made = list(record("tests/Counts-v0", "random", 2, 0))
    assert sorted({row.argmax() for one in made for row in one.actions}) == [0, 1, 2]
    assert sum(one.actions[:, 1].sum() for one in made) == sum(one.about["return"] for one in made)
    policy = new_policy({"kind": "mlp"}, made, True, WINDOW).eval()
    torch.nn.init.zeros_(policy.network[-1].weight)
    policy.network[-1].bias.data = torch.tensor([0.0, 1.0, 0.0])
    rollouts = Rollouts("tests/Counts-v0", episodes=2, workers=0)
    assert [one.total for one in rollouts.run(policy)] == [10, 10]
    rollouts.close()
    with pytest.raises(ConfigError, match="'tests/Counts-v0' are one of 3, so data.discrete must be true"):
        Rollouts("tests/Counts-v0").prepare(new_policy({}, point.episodes(1), False, WINDOW))
    with pytest.raises(ConfigError, match=r"are Box.*, so data.discrete must be false"):
        Rollouts(point.NAME).prepare(policy)


def test_the_splits_of_a_file_are_obeyed(tmp_path):
    h5py = pytest.importorskip("h5py")
    made = point.episodes(6)
    masks = {"train": [0, 2, 3], "valid": [1, 4], "20_percent": [5]}
    with h5py.File(tmp_path / "demos.hdf5", "w") as file:
        for number, one in enumerate(made):
            file[f"data/demo_{number}/actions"] = one.actions
            file[f"data/demo_{number}/obs/state"] = one.observations["state"]
        for name, numbers in masks.items():
            file[f"mask/{name}"] = [f"demo_{number}" for number in numbers]
    train, held_out = split(read_episodes(tmp_path / "demos.hdf5"), 0.5, 0)
    assert [one.about["name"] for one in train] == ["demo_0", "demo_2", "demo_3"]
    assert [one.about["name"] for one in held_out] == ["demo_1", "demo_4"]
    found = parts({"data": {"path": str(tmp_path / "demos.hdf5"), "held_out": 0.5}})
    assert "says which are held out" in found.notes[0]
    assert len(found.train.episodes) == 3


@pytest.mark.parametrize(
    ("splits", "train", "held_out"),
    [({"train": "0:4"}, [0, 1, 2, 3], [4, 5]), ({"train": "0:3", "val": "3:5", "test": "5:6"}, [0, 1, 2], [3, 4]),
     ({"test": "4:6"}, [0, 1, 3], [2]), ({"train": "0:6"}, [0, 1, 2, 4, 5], [3]),
     ({"validation": "0:2"}, [2, 3, 4, 5], [0, 1])],
)  # fmt: skip
def test_the_splits_of_a_lerobot_folder_are_obeyed(tmp_path, splits, train, held_out):
    pytest.importorskip("pyarrow")
    lerobot(tmp_path / "data", point.episodes(6, camera=True))
    info = tmp_path / "data" / "meta" / "info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "splits": splits}))
    found = split(read_episodes(tmp_path / "data"), 0.2, 0)
    assert [[one.about["episode_index"] for one in part] for part in found] == [train, held_out]
    info.write_text(json.dumps({**json.loads(info.read_text()), "splits": {"train": "all"}}))
    with pytest.raises(DataError, match="splits are written like train: 0:8, not {'train': 'all'}"):
        read_episodes(tmp_path / "data")


def test_the_figure_is_of_the_rollouts_own_environment(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "step_1.json").write_text('[{"seed": 5, "total": 7, "length": 7, "success": true}]')
    told, _ = draw_returns(tmp_path, {"env": "CartPole-v1", "episodes": 2, "settings": {"max_episode_steps": 50}})
    assert told[0] == "scripted: mean return 50.0"  # the pole stands to the time-out


def test_keys_that_would_do_nothing_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="data.episodes is of `path`; beside data.record write data.record.episodes"):
        demonstrations({"record": {"env": "CartPole-v1"}, "episodes": 2})
    write_npz(tmp_path / "a.npz", point.episodes(4), {})
    from trainwright.tasks.imitation.run import build

    for part, name in (("data", "image_shift"), ("train", "backbone_learning_rate")):
        sections = {"data": {"path": str(tmp_path / "a.npz")}, "policy": {}, "train": {"use_cpu": True}}
        sections[part][name] = 1
        with pytest.raises(ConfigError, match=f"{part}.{name} is for images, but the demonstrations see state alone"):
            build(sections)


def test_a_policy_that_lacks_a_part_is_named(tmp_path):
    from safetensors.torch import load_file, save_file

    from trainwright import CheckpointError
    from trainwright.tasks.imitation.loading import load_policy

    new_policy({}, point.episodes(2), False, WINDOW).save_pretrained(tmp_path)
    assert isinstance(load_policy(tmp_path), MlpPolicy)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["normalizer.action_low"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks normalizer.action_low of its policy; train anew"):
        load_policy(tmp_path)


def test_a_policy_of_another_version_says_so(tmp_path, caplog):
    from trainwright import CheckpointError, __version__
    from trainwright.tasks.imitation.loading import load_policy

    policy = new_policy({}, point.episodes(2), False, WINDOW)
    policy.save_pretrained(tmp_path)
    load_policy(tmp_path)
    assert not [one for one in caplog.records if one.name.startswith("trainwright")]
    policy.config.trainwright_version = "0.0.9"
    policy.save_pretrained(tmp_path)
    load_policy(tmp_path)
    said = f"It was made with trainwright 0.0.9, and this is {__version__}."
    told = [one.message for one in caplog.records if one.name.startswith("trainwright")]
    assert told == [f"'{tmp_path}' is loaded. {said}"]
    policy.config.width += 8  # as if a version had given the layers other sizes
    policy.config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=rf"cannot be loaded: .*{said}"):
        load_policy(tmp_path)
