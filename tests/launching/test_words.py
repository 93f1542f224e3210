"""What is started, as words: torchrun's, a script for Slurm, a manifest for Kubernetes; and what is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests import tiny_language as tiny
from tests.config import json_schema
from trainwright import compat
from trainwright.cli.main import main
from trainwright.compat import gives_grace
from trainwright.launching import here
from trainwright.launching.work import Work, torchrun

FILE = """
model: {model_name: llama, tokenizer_name: tokenizer, load_pretrained_weights: false}
data: {train: {datasets: [{dataset_name: rows.jsonl}]}}
training: {trainer_type: SFT, max_steps: 4, use_cpu: true}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # nothing is there
    tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows_of("text"))
    (tmp_path / "run.yaml").write_text(FILE)
    (tmp_path / "script.py").write_text("print()\n")
    return tmp_path


def shown(capsys, *words):
    assert main(["launch", *words, "--print"]) == 0
    return capsys.readouterr().out


def refusal(capsys, *words):
    assert main(["launch", *words]) == 2
    return capsys.readouterr().err.strip()


def test_a_file_is_printed_as_the_agent_s_words_with_its_overrides_and_a_folder(place, capsys):
    told = shown(capsys, "run.yaml", "--processes", "2", "training.learning_rate=1e-3")
    assert told.startswith("TRAINWRIGHT_JOB_RESUME=1 ")
    assert " CUDA_VISIBLE_DEVICES='' python -m trainwright.launching.agent --nnodes=1 --nproc-per-node=2 " in told
    assert f"-m trainwright train {place}/run.yaml training.learning_rate=1e-3 " in told
    assert told.strip().endswith(f"training.output_dir={place}/runs/run-N")
    assert ("--shutdown-timeout=60" in told) is gives_grace()
    assert "SIGUSR1" in told
    assert not (place / "runs").exists()


def test_torchrun_takes_the_words():
    from torch.distributed.run import config_from_args, parse_args

    work = Work("my run", ("script.py", "--lr", "1"), logs=Path("logs"), processes=4, gpus=True, nodes=(1, 4))
    config, _, words = config_from_args(parse_args(torchrun(work, "host:29500")))
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node, config.max_restarts) == (1, 4, 4, 3)
    assert (config.run_id, config.rdzv_endpoint) == ("my-run", "host:29500")
    assert not gives_grace() or config.shutdown_timeout == 60
    assert config.rdzv_configs["keep_alive_interval"] == "2"
    assert words[-3:] == ["script.py", "--lr", "1"]


def test_a_torchrun_that_cannot_be_told_the_grace_is_told_nothing(place, capsys, monkeypatch):
    monkeypatch.setattr(compat, "version", lambda name: "2.11.0+cu130")
    assert "shutdown" not in shown(capsys, "run.yaml", "--processes", "2")
    assert "--grace 90: the torchrun of this torch gives" in refusal(
        capsys, "run.yaml", "--processes", "2", "--grace", "90", "--print"
    )


def test_the_script_for_slurm_is_bash_and_asks_for_the_machines(place, capsys):
    text = shown(capsys, "script.py", "--on", "slurm", "--nodes", "4", "--gpus", "8", "--slurm", "time=24:00:00",
                 "--slurm", "partition=gpu", "--lr", "a b")  # fmt: skip
    subprocess.run(["/bin/bash", "-n"], input=text, text=True, check=True)
    for line in ("nodes=4", "gpus-per-node=8", "requeue", "signal=B:USR1@600", "open-mode=append", "time=24:00:00"):
        assert f"#SBATCH --{line}\n" in text
    assert "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1\n" in text
    assert "  --lr \\\n  'a b' &\n" in text


def object_of(*required, **properties):
    return {"type": "object", "required": [*required], "properties": properties, "additionalProperties": False}


def list_of(what):
    return {"type": "array", "items": what}


TEXT, COUNT = {"type": "string"}, {"type": "integer"}
_MOUNTS = list_of(object_of("name", "mountPath", name=TEXT, mountPath=TEXT, readOnly={}))
_CONTAINER = object_of("name", name=TEXT, env={}, volumeMounts=_MOUNTS, securityContext={})
_POD = object_of(
    serviceAccountName=TEXT, volumes=list_of({"type": "object", "required": ["name"]}), containers=list_of(_CONTAINER),
    initContainers={}, imagePullSecrets={}, nodeSelector={}, affinity={}, tolerations={}, schedulingGates={},
)  # fmt: skip
_NODE = object_of("name", name=TEXT, template=object_of(metadata={}, spec=object_of(
    template=object_of(metadata={}, spec=_POD))))  # fmt: skip
_PATCH = object_of("manager", manager=TEXT, time=TEXT, trainingRuntimeSpec=object_of(
    template=object_of(metadata={}, spec=object_of(replicatedJobs=list_of(_NODE)))))  # fmt: skip
_TRAINER = object_of(
    image=TEXT, command=list_of(TEXT), args=list_of(TEXT), numNodes=COUNT,
    env=list_of(object_of("name", name=TEXT, value=TEXT, valueFrom={})), numProcPerNode=COUNT,
    resourcesPerNode=object_of(limits={"type": "object"}, requests={"type": "object"}),
)  # fmt: skip
TRAINJOB = object_of(
    "spec", apiVersion={"enum": ["trainer.kubeflow.org/v1alpha1"]}, kind={"enum": ["TrainJob"]}, metadata={},
    spec=object_of("runtimeRef", runtimeRef=object_of("name", name=TEXT, apiGroup=TEXT, kind=TEXT), initializer={},
                   trainer=_TRAINER, runtimePatches=list_of(_PATCH), suspend={}, activeDeadlineSeconds=COUNT,
                   managedBy=TEXT),
)  # fmt: skip
"""Fields and types of a TrainJob, by hand after kubeflow/trainer, pkg/apis/trainer/v1alpha1/trainjob_types.go."""


@pytest.mark.parametrize("words", [("run.yaml", "--gpus", "8", "--claim", "runs:/runs", "training.output_dir=/runs/a"),
                                   ("script.py", "--processes", "2", "--epochs", "3")])  # fmt: skip
def test_the_manifest_for_kubernetes_is_a_trainjob(place, capsys, words):
    text = shown(capsys, *words, "--on", "kubernetes", "--nodes", "2", "--image", "registry/image:1")
    *files, job = yaml.safe_load_all(text)
    assert not list(json_schema.faults(job, TRAINJOB))
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, int(words[2]))
    assert not [word for word in trainer["command"] if word.startswith(("--nnodes", "--rdzv"))]
    if files:
        assert files[0]["data"] == {"run.yaml": FILE}
        assert trainer["resourcesPerNode"]["limits"] == {"nvidia.com/gpu": 8}
        assert trainer["command"][-2:] == ["/etc/trainwright/run.yaml", "training.output_dir=/runs/a"]
    else:
        assert trainer["command"][-3:] == ["script.py", "--epochs", "3"]


def test_what_cannot_be_started_is_one_sentence(place, capsys, monkeypatch):
    assert "there is no" not in refusal(capsys, "missing.yaml", "--gpus", "1")
    assert "--nodes 4:1: a number of machines" in refusal(capsys, "run.yaml", "--nodes", "4:1")
    assert "--rendezvous HOST:PORT" in refusal(capsys, "run.yaml", "--gpus", "1", "--nodes", "2")
    assert "needs --gpus N" in refusal(capsys, "run.yaml", "--on", "slurm")
    assert "There is no 'sbatch'" in refusal(capsys, "run.yaml", "--on", "slurm", "--gpus", "1")
    assert "needs --image" in refusal(capsys, "run.yaml", "--on", "kubernetes", "--gpus", "1")
    assert "There is no 'kubectl'" in refusal(capsys, "run.yaml", "--on", "kubernetes", "--gpus", "1", "--image", "x")
    assert "unknown key training.max_step (Did you" in refusal(capsys, "run.yaml", "--gpus", "1", "training.max_step=3")
    (place / "out").mkdir()
    (place / "out" / "run.yaml").write_text("")
    assert "--resume goes on with it" in refusal(capsys, "run.yaml", "--processes", "1", "training.output_dir=out")


def test_more_gpus_than_there_are_is_one_sentence(monkeypatch):
    work = Work("run", ("script.py",), None, processes=4, gpus=True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(here.ConfigError, match="This machine has no GPU that torch finds. --processes N starts"):
        here.check(work)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(here.ConfigError, match="--gpus 4: this machine has 2. Give at most --gpus 2."):
        here.check(work)
