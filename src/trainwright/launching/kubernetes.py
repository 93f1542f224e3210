"""On Kubernetes: a TrainJob of Kubeflow's trainer 2.2 (`trainer.kubeflow.org/v1alpha1`), with an agent in every pod.

The trainer tells the agent in the environment (`PET_…`) how many pods there are, where they meet, and how many
processes each has; all else is in the command.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from trainwright.errors import ConfigError
from trainwright.launching.work import Work, torchrun, word

RUNTIME, NODE = "torch-distributed", "node"  # the runtime that the trainer brings, and its job and container
FILES = "/etc/trainwright"
_TOLD_BY_THE_TRAINER = ("--nnodes", "--nproc-per-node", "--rdzv-")


def manifest(work: Work, image: str, claim: tuple[str, str] | None, files: dict[str, str]) -> list[dict[str, Any]]:
    """Return the objects: the run's files as a ConfigMap, where there are any, and the TrainJob.

    Args:
        work: what is started.
        image: with trainwright in it.
        claim: a PersistentVolumeClaim that all pods share, and where it is mounted.
        files: texts by name, which every pod finds in `FILES`.
    """
    name = word(work.name)[:50].strip("-")
    volumes, mounts = [], []
    if files:
        volumes.append({"name": "files", "configMap": {"name": name}})
        mounts.append({"name": "files", "mountPath": FILES})
    if claim is not None:
        volumes.append({"name": "runs", "persistentVolumeClaim": {"claimName": claim[0]}})
        mounts.append({"name": "runs", "mountPath": claim[1]})
    words = [one for one in torchrun(work) if not one.startswith(_TOLD_BY_THE_TRAINER)]
    trainer: dict[str, Any] = {
        "image": image, "numNodes": work.nodes[1], "numProcPerNode": work.processes,
        "command": ["python", "-m", "trainwright.launching.agent", *words],
        "env": [{"name": key, "value": value} for key, value in work.environment.items()],
    }  # fmt: skip
    if work.gpus:
        trainer["resourcesPerNode"] = {"limits": {"nvidia.com/gpu": work.processes}}
    spec: dict[str, Any] = {
        "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "ClusterTrainingRuntime", "name": RUNTIME},
        "trainer": trainer,
    }
    if volumes:
        spec["runtimePatches"] = [_patch({"volumes": volumes, "containers": [{"name": NODE, "volumeMounts": mounts}]})]
    job = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": {"name": name}, "spec": spec}
    kept = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": files}
    return [kept, job] if files else [job]


def _patch(pod: dict[str, Any]) -> dict[str, Any]:
    """Return what gives the runtime's pods something more."""
    jobs = [{"name": NODE, "template": {"spec": {"template": {"spec": pod}}}}]
    return {"manager": "trainwright/launch", "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}}}


def text_of(objects: list[dict[str, Any]]) -> str:
    """Return the objects as YAML, as kubectl reads them."""
    return str(yaml.safe_dump_all(objects, sort_keys=False))


def submit(objects: list[dict[str, Any]], place: Path) -> None:
    """Write the manifest and give it to the cluster.

    Raises:
        ConfigError: there is no kubectl here, or the cluster refused it.
    """
    if shutil.which("kubectl") is None:
        raise ConfigError("There is no 'kubectl' on this machine: install it, or see the manifest with --print.")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text_of(objects), encoding="utf-8")
    done = subprocess.run(["kubectl", "create", "-f", str(place)], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ConfigError(f"kubectl refused '{place}': {said[-1] if said else f'exit code {done.returncode}'}")
