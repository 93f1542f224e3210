"""Every key of imitation's file arrives, and a resumed run takes today's `train` and refuses another policy or data."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
import yaml

from trainwright import ConfigError
from trainwright.checkpoint.layout import step_of
from trainwright.cli.main import main
from trainwright.config.keys.task_uses import IMITATION, SIZES
from trainwright.tasks.imitation.loading import kinds
from trainwright.tasks.imitation.policies.policy import PolicyConfig
from trainwright.tasks.imitation.rollout import Rollouts
from trainwright.tasks.imitation.run import build, parts

FILE = {
    "data": {"record": {"env": "CartPole-v1", "episodes": 3}, "held_out": 0.34, "chunk": 4},
    "policy": {"kind": "mlp", "width": 8, "depth": 1},
    "train": {"output_dir": "run", "max_steps": 2, "save_steps": 2, "use_cpu": True, "disable_tqdm": True},
}
VALUES = {
    "width": 24, "depth": 4, "dropout": 0.25, "bins": 5, "heads": 2, "ffn": 48, "encoder_layers": 1,
    "decoder_layers": 1, "latent": 3, "kl_weight": 0.5, "noise_steps": 20, "sample_steps": 3, "execute": 2,
    "ensemble": 0.1,
}  # fmt: skip


def test_sizes_are_those_of_the_policies():
    inherited = set(PolicyConfig.__annotations__)
    for kind, policy in kinds().items():
        assert set(SIZES[kind]) == set(policy.config_class.__annotations__) - inherited
    assert set(IMITATION["rollout"]) == {f.name for f in fields(Rollouts) if f.init}


@pytest.mark.parametrize("kind", SIZES)
def test_every_size_of_a_policy_arrives(kind):
    for name in (*SIZES[kind], "execute", "ensemble"):
        usual = parts({**FILE, "policy": {"kind": kind}}).policy.config
        config = parts({**FILE, "policy": {"kind": kind, name: VALUES[name]}}).policy.config
        assert getattr(config, name) == VALUES[name] != getattr(usual, name)
    strange = next(name for other in SIZES for name in SIZES[other] if name not in SIZES[kind])
    with pytest.raises(ConfigError, match=f"policy: unknown key '{strange}'"):
        parts({**FILE, "policy": {"kind": kind, strange: 3}})


def test_keys_of_data_arrive():
    made = parts({**FILE, "data": {**FILE["data"], "history": 3, "chunk": 5, "split_seed": 3}})
    assert (made.policy.config.history, made.policy.config.chunk) == (3, 5)
    assert len(parts({**FILE, "data": {**FILE["data"], "held_out": 0.67}}).held_out) != len(made.held_out)
    with pytest.raises(ConfigError, match="policy.execute is 9; it is from 1 to data.chunk, 4"):
        parts({**FILE, "policy": {"kind": "mlp", "execute": 9}})
    with pytest.raises(ConfigError, match="policy.normalization: unknown key 'stat'"):
        parts({**FILE, "policy": {"kind": "mlp", "normalization": {"stat": "min_max"}}})


@pytest.mark.parametrize(
    ("section", "given", "said"),
    [
        ("data", {"chunk": 0}, "data.chunk is 0, but a whole number of at least 1 is expected"),
        ("data", {"history": 1.5}, "data.history is 1.5, but a whole number of at least 1 is expected"),
        ("data", {"held_out": -0.2}, "data.held_out is -0.2, but a number from 0 to below 1 is expected"),
        ("data", {"held_out": 1}, "data.held_out is 1, but a number from 0 to below 1"),
        ("data", {"record": {"env": "CartPole-v1", "episodes": 0}}, "data.record.episodes is 0, but a whole number"),
        ("data", {"record": {"env": "CartPole-v1", "seed": -1}}, "data.record.seed is -1, but a whole number"),
        ("data", {"record": "CartPole-v1"}, "data.record is 'CartPole-v1', but a section with keys is expected"),
        ("data", {"record": {"env": "CartPole-v1", "settings": "x"}}, "settings is 'x', but a section with keys"),
        ("data", {"record": {"env": "CartPole-v1", "settings": {"nope": 1}}}, "cannot be made with settings {'nope"),
        ("data", {"discrete": "no"}, "data.discrete is 'no', but true or false is expected"),
        ("policy", {"seed": "x"}, "policy.seed is 'x', but a whole number of at least 0 is expected"),
        ("policy", {"ensemble": -1}, "policy.ensemble is -1, but a number of at least 0 is expected"),
        ("rollout", {"env": "Pendulum-v1", "settings": {"nope": 1}}, "cannot be made with settings {'nope': 1}"),
        ("train", {"resume_from_checkpoint": "x"}, "train.resume_from_checkpoint is 'x', but a run goes on with"),
        ("policy", {"width": -3}, "policy.width is -3, but a whole number of at least 1"),
        ("policy", {"width": "wide"}, "policy.width is 'wide', but a whole number of at least 1"),
        ("policy", {"dropout": 1.5}, "policy.dropout is 1.5, but a number from 0 to below 1"),
        ("policy", {"kind": "diffusion", "noise_steps": 0}, "policy.noise_steps is 0, but a whole number"),
        ("policy", {"kind": "act", "heads": 3}, "policy.width 128 is not a multiple of policy.heads, 3"),
        ("policy", {"normalization_masks": 3}, "policy.normalization_masks is 3, but lists of true and false"),
        ("rollout", {"env": "CartPole-v1", "film": -1}, "rollout.film is -1, but a whole number of at least 0"),
        ("rollout", {"env": "CartPole-v1", "rollout_steps": 0}, "rollout.rollout_steps is 0, but a whole number"),
        ("train", {"early_stopping_patience": 0}, "train.early_stopping_patience is 0, but a whole number"),
    ],
)
def test_numbers_out_of_range_are_refused(section, given, said):
    pendulum = {"record": {"env": "Pendulum-v1", "episodes": 2}, "held_out": 0.5}
    file = {**FILE, "policy": {"kind": "mlp"}, "data": pendulum}
    file[section] = {**file.get(section, {}), **given}
    with pytest.raises(ConfigError, match=re.escape(said)):
        build(file)


def test_rollouts_that_no_evaluation_makes_are_said_or_refused(caplog):
    rollout = {"env": "Pendulum-v1", "episodes": 1, "rollout_steps": 7}
    file = {**FILE, "data": {"record": {"env": "Pendulum-v1", "episodes": 2}, "held_out": 0.5}, "rollout": rollout}
    build(file)
    assert "train.eval_strategy is 'no', so no rollout is made in training" in caplog.text
    with pytest.raises(ConfigError, match="rollout_steps is 7, but rollouts belong to the evaluation"):
        build({**file, "train": {**FILE["train"], "eval_strategy": "steps", "eval_steps": 2}})


def test_a_resumed_run_takes_what_is_given_or_refuses_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(FILE))
    command = ["imitation", "train", "run.yaml"]
    assert main(command) == 0
    assert main([*command, "train.max_steps=4", "train.learning_rate=0.01", "--resume"]) == 0
    assert max(step_of(path) for path in (tmp_path / "run").glob("checkpoint-*")) == 4
    kept = yaml.safe_load((tmp_path / "run" / "imitation.yaml").read_text())["train"]
    assert (kept["max_steps"], kept["learning_rate"]) == (4, 0.01)
    for change, said in {
        "policy.width=16": "policy.width is 16, but the run in 'run' began with 8",
        "data.record.episodes=5": "data.record is {'env': 'CartPole-v1', 'episodes': 5}, but the run in 'run' began",
        "data.history=2": "data.history is 2, but the run in 'run' began with None",
    }.items():
        capsys.readouterr()
        assert main([*command, change, "--resume"]) == 2
        assert said in capsys.readouterr().err
