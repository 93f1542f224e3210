"""Every key of imitation's file arrives, and a resumed run takes today's `train` and refuses another policy or data."""

from __future__ import annotations

from dataclasses import fields

import pytest
import yaml

from trainwright import ConfigError
from trainwright.checkpoint.folder import step_of
from trainwright.cli.main import main
from trainwright.config.task_uses import IMITATION, SIZES
from trainwright.tasks.imitation.loading import kinds
from trainwright.tasks.imitation.policies import PolicyConfig
from trainwright.tasks.imitation.rollout import Rollouts
from trainwright.tasks.imitation.run import parts

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
