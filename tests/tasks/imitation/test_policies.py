"""The three policies: they learn, load in two lines, and do in use what they do in training."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest
import torch

from tests import ROOT, forked
from tests.tasks.imitation import point, resume
from trainwright import CheckpointError, ConfigError
from trainwright.checkpoint import layout
from trainwright.checkpoint.lock import owned
from trainwright.cli.main import main
from trainwright.tasks.imitation.actor import Actor
from trainwright.tasks.imitation.episodes import Episode, write_npz
from trainwright.tasks.imitation.loading import load_policy
from trainwright.tasks.imitation.policies.diffusion import cosine_schedule
from trainwright.tasks.imitation.policies.policy import MlpConfig, MlpPolicy
from trainwright.tasks.imitation.rollout import Rollouts, summary
from trainwright.tasks.imitation.run import build, new_policy, parts
from trainwright.tasks.imitation.success import success_of
from trainwright.tasks.imitation.windows import Together, Windows

KINDS = {
    "mlp": {"kind": "mlp", "width": 64},
    "bins": {"kind": "mlp", "width": 64, "bins": 21},
    "act": {"kind": "act", "width": 32, "ffn": 64, "dropout": 0.0, "kl_weight": 0.1},
    "diffusion": {"kind": "diffusion", "width": 64, "depth": 2, "sample_steps": 8},
}


def sections(place, policy, **more):
    path = place / "point.npz"
    if not path.exists():
        write_npz(path, point.episodes(40), {})
    return {
        "data": {"path": str(path), "held_out": 0.1, "history": 1, "chunk": 4, **more.pop("data", {})},
        "policy": {"seed": 0, **policy},
        "train": {"output_dir": str(place / "run"), "max_steps": 250, "learning_rate": 3e-3, "use_cpu": True,
                  "per_device_train_batch_size": 64, "save_strategy": "no", "logging_steps": 50,
                  "disable_tqdm": True, **more},
        "rollout": {"env": point.NAME, "episodes": 12, "workers": 0, "success": "terminated"},
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_micro_batches_of_any_size_give_a_policy_the_same_loss(tmp_path, name, monkeypatch):
    # draws depend on the shapes; without them the losses are those of the same eight windows, three with padding
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    monkeypatch.setattr(torch, "randint", lambda low, high, size, device=None: torch.full(size, low, device=device))

    def first_step(micro):
        changes = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": 8 // micro, "logging_steps": 1}
        given = sections(tmp_path, KINDS[name], max_steps=3, data={"chunk": 30}, **changes)
        trainer = build({part: given[part] for part in ("data", "policy", "train")})
        trainer.train()
        return [(e["loss"], e["grad_norm"]) for e in trainer.state.log_history if "grad_norm" in e]

    whole = torch.tensor(first_step(8))
    for micro in (1, 2):
        torch.testing.assert_close(torch.tensor(first_step(micro)), whole, rtol=1e-4, atol=1e-5)  # float32


def test_nothing_is_learned_from_what_stands_after_an_episode():
    """Whatever the padded actions are, the style that is read, the loss and its gradient are the same."""
    random = np.random.default_rng(0)
    state, actions = (random.standard_normal((9, 2)).astype(np.float32) for _ in range(2))
    made = [Episode({"state": state}, actions)]
    policy = new_policy(KINDS["act"] | {"seed": 0}, made, False, {"history": 1, "chunk": 6}).train()
    rows = Together()([Windows(made, 1, 6)[6], Windows(made, 1, 6)[0]])
    assert rows["action_is_pad"].tolist() == [[False] * 3 + [True] * 3, [False] * 6]
    found = []
    for other in (0.0, 100.0):
        action = torch.where(rows["action_is_pad"][..., None], other, rows["action"])
        seen = policy.seen(policy.features(rows["observation"]))
        style = torch.cat(policy.read_style(seen, action, rows["action_is_pad"]))
        torch.manual_seed(0)
        outputs = policy(rows["observation"], action, rows["action_is_pad"])
        policy.zero_grad()
        outputs["loss"].backward()
        found.append([style, outputs["loss"], *(p.grad for p in policy.parameters() if p.grad is not None)])
    for one, another in zip(*found, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-5, atol=1e-6)  # float32
    whole = torch.zeros_like(rows["action_is_pad"])
    assert not torch.allclose(torch.cat(policy.read_style(seen, action, whole)), found[1][0], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_policy_learns_and_loads_in_two_lines(tmp_path, name):
    trainer = build(sections(tmp_path, KINDS[name]))
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_success_rate"] >= 0.9 > before["eval_success_rate"], (before, after)
    assert after["eval_loss"] < before["eval_loss"]
    trainer.save_model(str(tmp_path / "final"))
    policy = load_policy(tmp_path / "final")
    action = policy.act(np.array([0.5, -0.5], dtype=np.float32))
    assert action.shape == (2,)
    assert np.sign(action).tolist() == [-1, 1]
    policy.reset()
    if name == "act":
        assert any({"l1", "kl"} <= entry.keys() for entry in trainer.state.log_history)


@pytest.mark.slow
def test_a_checkpoint_in_a_new_process_returns_the_same(tmp_path):
    trainer = build(sections(tmp_path, KINDS["diffusion"], max_steps=40, ema_decay=0.9, save_strategy="steps",
                             save_steps=40, eval_strategy="steps", eval_steps=40))  # fmt: skip
    trainer.train()
    inside = json.loads((tmp_path / "run" / "rollouts" / "step_40.json").read_text())
    code = f"""
import json, torch
torch.set_num_threads({torch.get_num_threads()})
from tests.tasks.imitation import point
from trainwright.tasks.imitation.loading import load_policy
from trainwright.tasks.imitation.rollout import Rollouts
rollouts = Rollouts(point.NAME, episodes=12, workers=0, success="terminated")
results = rollouts.run(load_policy({str(tmp_path / "run" / "checkpoint-40")!r}))
print(json.dumps([vars(one) for one in results]))
"""
    done = forked.run(["-c", code])
    assert json.loads(done.stdout.splitlines()[-1]) == inside


@pytest.mark.slow
def test_a_resumed_run_is_bitwise_the_same(tmp_path):
    """With images, augmentation, workers, a moving average, a sampled style and rollouts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    straight = resume.run(tmp_path, tmp_path / "run", resume=False)
    torch.set_num_threads(threads)
    for path in layout.checkpoints(tmp_path / "run"):
        if layout.step_of(path) > resume.SAVED:
            import shutil

            shutil.rmtree(path)
    done = forked.run(["-m", "tests.tasks.imitation.resume", tmp_path])
    assert done.returncode == 0, done.stderr[-3000:]
    resumed = json.loads((tmp_path / "resumed.json").read_text())
    assert resumed["logs"] == straight["logs"]
    assert resumed["weights"] == straight["weights"]
    assert (resumed["last"], resumed["updates"]) == (straight["last"], straight["updates"])
    assert any("eval_success_rate" in entry for entry in straight["logs"])
    assert {"l1", "kl"} <= straight["logs"][0].keys()


def test_chunks_are_done_and_ensembled():
    class Counting(MlpPolicy):
        asked = 0

        def predict(self, observation, generators=None):
            Counting.asked += 1
            rows = len(observation["state"])
            return torch.arange(4.0).view(1, 4, 1).expand(rows, 4, 1) + 10 * Counting.asked

    def run(count, **settings):
        Counting.asked = 0
        config = MlpConfig(numbers={"state": 2}, action_size=1, chunk=4, history=2, **settings)
        actor = Actor(Counting(config).eval(), range(3))
        return [actor.act({"state": np.zeros((3, 2), np.float32)})[0, 0] for _ in range(count)], Counting.asked

    assert run(6) == ([10, 11, 12, 13, 20, 21], 2)
    assert run(5, execute=2) == ([10, 11, 20, 21, 30], 3)
    said, asked = run(3, ensemble=0.1)
    weights = np.exp(-0.1 * np.arange(3))
    assert asked == 3
    assert said[2] == pytest.approx((weights * [12, 21, 30]).sum() / weights.sum())  # the oldest weighs most


def test_what_success_is():
    def rule(env="Pendulum-v1", given=None):
        return success_of(gymnasium.spec(env), given)

    assert rule(given="terminated").won(True, None, 0.0)
    assert rule(given="terminated").won(False, None, 0.0) is False  # a time-out is none
    assert rule(given="survived").won(False, None, 0.0)
    assert rule(given="survived").won(True, None, 0.0) is False
    assert rule(given="info").won(False, True, 0.0)
    assert rule(given="info").won(True, None, 0.0) is False
    assert rule(given="terminated").won(False, True, 0.0)  # the environment knows better
    assert rule(given=-200).won(False, None, -150.0)
    assert rule(given=-200).won(True, True, -250.0) is False
    with pytest.raises(ConfigError, match=r"rollout.success 'often' is not known"):
        Rollouts(point.NAME, success="often")
    with pytest.raises(ConfigError, match=r"rollout.success 'True' is not known"):
        Rollouts(point.NAME, success=True)
    with pytest.raises(ConfigError, match="There is no environment 'Cartpole-v7'"):
        Rollouts("Cartpole-v7").run(None)


SOLVED = {  # by gymnasium's documentation of each: a fall from the goal, a crash from a landing
    "CartPole-v1": [(False, 0, True), (True, 0, False)],
    "InvertedPendulum-v5": [(False, 0, True), (True, 0, False)],
    "MountainCarContinuous-v0": [(True, 0, True), (False, 99, False)],
    "Acrobot-v1": [(True, -400, True), (False, -500, False)],
    "Hopper-v5": [(True, 20, False), (False, 3900, True), (False, 3700, False)],
    "Ant-v5": [(True, 20, False), (False, 6100, True)],
    "BipedalWalker-v3": [(True, -100, False), (False, 310, True)],
    "LunarLander-v3": [(True, -100, False), (True, 250, True)],
    "FrozenLake-v1": [(True, 0, False), (True, 1, True)],
    "Walker2d-v5": [(True, 20, None), (False, 9000, None)],
    "Humanoid-v5": [(True, 20, None)],
    "Pendulum-v1": [(False, -100, None)],
}


@pytest.mark.parametrize("env", SOLVED)
def test_success_follows_the_task_of_the_environment(env):
    rule = success_of(gymnasium.spec(env), None)
    for terminated, total, expected in SOLVED[env]:
        assert rule.won(terminated, None, float(total)) is expected
        assert rule.won(terminated, True, float(total)) is True  # what the environment says itself
    assert ("no success rate" in rule.text) == (SOLVED[env][0][2] is None)


def test_side_by_side_is_one_after_another(tmp_path):
    policy = parts(sections(tmp_path, KINDS["mlp"])).policy.eval()
    both = []
    for workers in (0, 2):
        rollouts = Rollouts(point.NAME, episodes=6, workers=workers, success="terminated")
        both.append(rollouts.run(policy))
        assert rollouts.run(policy) == both[-1]  # and again
        rollouts.close()
    assert both[0] == both[1]
    assert [one.seed for one in both[0]] == list(range(10_000, 10_006))
    assert summary(both[0], "eval").keys() == {"eval_success_rate", "eval_return", "eval_episode_length"}


@pytest.mark.slow
def test_groups_best_checkpoint_early_stop_and_films(tmp_path):
    write_npz(tmp_path / "camera.npz", point.episodes(8, camera=True), {})
    given = sections(tmp_path, {"kind": "mlp", "width": 16}, save_strategy="steps", max_steps=40)
    given["data"] |= {"path": str(tmp_path / "camera.npz"), "image_shift": 1}
    given["train"] |= {"backbone_learning_rate": 1e-5, "early_stopping_patience": 1, "eval_strategy": "steps",
                       "eval_steps": 4, "save_steps": 4, "load_best_model_at_end": True, "learning_rate": 0.0,
                       "metric_for_best_model": "success_rate", "greater_is_better": True}  # fmt: skip
    given["rollout"] |= {"settings": {"camera": True}, "episodes": 2, "film": 1, "rollout_steps": 4}
    trainer = build(given)
    trainer.train()
    assert trainer.state.global_step == 8  # nothing is learned, so the first is the best
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-4")
    rates = {group["initial_lr"] for group in trainer.optimizer.param_groups}
    assert rates == {0.0, 1e-5}
    backbone = {id(p) for name, p in trainer.model.named_parameters() if "backbone" in name}
    for group in trainer.optimizer.param_groups:
        assert {id(p) in backbone for p in group["params"]} == {group["initial_lr"] == 1e-5}
    assert (tmp_path / "run" / "rollouts" / "step_4.gif").stat().st_size > 100
    assert len(json.loads((tmp_path / "run" / "rollouts" / "step_8.json").read_text())) == 2


MISTAKES = {
    "a section": ({"polcy": {}}, "unknown key 'polcy'. Did you mean 'policy'?"),
    "a kind": ({"policy": {"kind": "atc"}}, "policy.kind 'atc' is not known. Did you mean 'act'?"),
    "a key": ({"policy": {"kind": "mlp", "bin": 3}}, "policy: unknown key 'bin'. Did you mean 'bins'?"),
    "bins": ({"policy": {"bins": 3, "normalization": {"action": "mean_std"}}}, "bins and diffusion need min_max"),
    "missing": (
        {"data": {"path": "missing.npz", "record": {"env": point.NAME}}},
        "data.path is 'missing.npz', where nothing is (looked for from ",
    ),
    "data": ({"data": {}}, "data needs either `path`, a file or folder of episodes, or `record`"),
    "an expert": ({"data": {"record": {"env": "Acrobot-v1"}}}, "There is no scripted expert for 'Acrobot-v1'"),
    "rollouts": ({"rollout": {"episodes": 3}}, "rollout.env must be given"),
    "held out": ({"data": {"held_out": 0}}, "data.held_out is 0, but rollouts are a part of evaluation"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(tmp_path, name, capsys):
    import yaml

    change, message = MISTAKES[name]
    given = sections(tmp_path, {"kind": "mlp"})
    for part, keys in change.items():
        given[part] = {**given["data"], **keys} if keys == {"held_out": 0} else keys
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(given))
    assert main(["imitation", "train", str(tmp_path / "run.yaml")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_that_is_refused_leaves_its_folder_as_it_was(tmp_path, capsys):
    import yaml

    (tmp_path / "run.yaml").write_text(yaml.safe_dump(sections(tmp_path, {"kind": "mlp"}, save_strategy="steps")))
    train = ["imitation", "train", str(tmp_path / "run.yaml")]
    assert main([*train, "train.max_steps=2"]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert main([*train, "train.per_device_train_batch_size=32", "--resume"]) == 2
    assert "The data order is not the checkpoint's" in capsys.readouterr().err
    with owned(tmp_path / "run") as lock:
        assert main([*train, "train.max_steps=3", "--resume"]) == 2
        assert "is in use by process" in capsys.readouterr().err
        lock.path.unlink()
        assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert main([*train, "train.max_steps=3", "--resume"]) == 0


def test_folders_that_hold_no_policy(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no policy: it has no config.json"):
        load_policy(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="holds a 'llama', which is no policy of ours"):
        load_policy(tmp_path)


def test_the_noise_schedule_is_that_of_the_paper():
    left = cosine_schedule(50).double()
    t = torch.arange(1, 51, dtype=torch.float64) / 50
    wanted = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    torch.testing.assert_close(left, wanted.clamp(min=1e-4), atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mountain_car", "pendulum", "inverted_pendulum", "push_t"])
def test_the_examples_run(tmp_path, monkeypatch, name, capsys):
    if name == "inverted_pendulum":
        pytest.importorskip("mujoco", reason="mujoco is not installed (gymnasium[mujoco])")
        pytest.importorskip("imageio", reason="imageio is not installed (gymnasium[mujoco])")
    if name == "push_t":
        pytest.importorskip("gym_pusht", reason="gym-pusht is not installed")
    monkeypatch.chdir(tmp_path)
    few = ["data.record.episodes=4", "data.held_out=0.3", "train.max_steps=3", "train.eval_steps=3",
           "train.save_steps=3", "rollout.episodes=2"]  # fmt: skip
    assert main(["imitation", "train", str(ROOT / "examples" / "imitation" / f"{name}.yaml"), *few]) == 0
    assert "eval_success_rate" in capsys.readouterr().out
    (run,) = (tmp_path / "runs").iterdir()
    for path in ("nowhere", str(run / "nowhere")):
        assert main(["imitation", "eval", path]) == 2
        assert f"'{path}' is neither the folder of a run" in capsys.readouterr().err
    assert main(["imitation", "eval", str(run), "--episodes", "2"]) == 0
    assert "seed 10001" in capsys.readouterr().out
    assert main(["imitation", "train", str(ROOT / "examples" / "imitation" / f"{name}.yaml"), *few]) == 2
    assert "holds another run" in capsys.readouterr().err


def test_the_file_of_the_docs_is_the_example():
    file = ROOT / "examples" / "imitation" / "own_policy.py"
    assert file.read_text().strip() in (ROOT / "docs" / "imitation.md").read_text()
    assert len(file.read_text().splitlines()) < 80


@pytest.mark.slow
def test_the_example_of_the_docs_learns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "own_policy"}
    exec((ROOT / "examples" / "imitation" / "own_policy.py").read_text(), names)
    trainer = names["main"](steps=200)
    assert trainer.state.best_metric > 85
    entry = next(entry for entry in trainer.state.log_history if "eval_l1" in entry)
    assert entry["eval_l1"] + entry["eval_large"] == pytest.approx(entry["eval_loss"], abs=1e-6)  # weighed alike


@pytest.mark.slow
def test_the_demo_draws_the_policy_between_expert_and_chance(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = ["data.record.episodes=4", "data.held_out=0.3", "train.max_steps=4", "train.eval_steps=2",
           "train.save_steps=2", "rollout.episodes=2"]  # fmt: skip
    assert main(["demo", "imitation", *few]) == 0
    assert "scripted: mean return 500.0" in capsys.readouterr().out
    assert (tmp_path / "runs" / "demo-imitation" / "returns.png").stat().st_size > 1000
    steps = [path.stem for path in sorted((tmp_path / "runs" / "demo-imitation" / "rollouts").glob("*.json"))]
    assert steps == ["step_0", "step_2", "step_4"]  # from the untrained policy on
    assert main(["demo", "imitation", *few]) == 0
    assert "This run is complete: 4 steps" in capsys.readouterr().out
    assert main(["init", "imitation"]) == 0
    assert main(["imitation", "train", "imitation.yaml", "train.output_dir=runs/mine", *few]) == 0
    assert main(["imitation", "eval", "runs/mine", "--episodes", "1", "--film", "pole.gif"]) == 0
    assert (tmp_path / "pole.gif").stat().st_size > 1000
