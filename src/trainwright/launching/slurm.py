"""On Slurm: a batch script that asks for the machines, and goes on in a new turn when the time of one is over.

Before the limit Slurm sends SIGUSR1 to the script alone; the processes get SIGTERM from it, save and leave, and the job
is put into Slurm's queue again. SIGUSR1 itself never reaches them, for libraries in them may use it.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from trainwright.errors import ConfigError
from trainwright.launching.work import Work, torchrun, word

_END = """
# SIGUSR1 comes before the time is over: the processes save, and the job goes on in a new turn.
requeue=
trap 'requeue=1; echo "The time is nearly over: the run saves, and goes on in a new turn."; kill -TERM "$run"' USR1
trap 'kill -TERM "$run"' TERM
while kill -0 "$run" 2>/dev/null; do wait "$run"; done
wait "$run"
code=$?
if [ -n "$requeue" ] && [ "$code" -ne 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
"""


def script(work: Work, job: str, options: Mapping[str, str], warning: int) -> str:
    """Return the batch script.

    Args:
        work: what is started; one agent on each machine.
        job: the name by which the run is known among jobs, in every turn.
        options: of sbatch, by their long names, such as {"time": "24:00:00", "partition": "gpu"}.
        warning: seconds before the end of the time at which the run is to save.
    """
    nodes = work.nodes[1]
    asked = {
        "job-name": word(work.name), "nodes": str(nodes), "ntasks-per-node": "1",
        **({"gpus-per-node": str(work.processes)} if work.gpus else {"cpus-per-task": str(work.processes)}),
        "output": str(work.logs / "slurm-%j.log"), "open-mode": "append", "requeue": None,
        "signal": f"B:USR1@{warning}", **options,
    }  # fmt: skip
    head = [f"#SBATCH --{name}" + ("" if value is None else f"={value}") for name, value in asked.items()]
    kept = {
        **work.environment, "TRAINWRIGHT_JOB_ID": job, "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "[rank ${rank}] ",
    }  # fmt: skip
    exports = [f"export {name}={shlex.quote(value)}" for name, value in kept.items()]
    words = [shlex.quote(one) for one in torchrun(work, "ENDPOINT", "MEETING")]
    words = [one.replace("ENDPOINT", '"$head:$port"').replace("MEETING", '"$SLURM_JOB_ID"') for one in words]
    start = ["srun --kill-on-bad-exit=1", shlex.quote(sys.executable), "-m trainwright.launching.agent", *words]
    lines = [
        "#!/bin/bash", *head, "",
        *exports, "export TRAINWRIGHT_JOB_ATTEMPT=$((${SLURM_RESTART_COUNT:-0} + 1))",
        'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "port=$((20000 + SLURM_JOB_ID % 20000))", "",
        " \\\n  ".join(start) + " &", "run=$!",
    ]  # fmt: skip
    return "\n".join(lines) + _END


def submit(text: str, place: Path) -> str:
    """Write a batch script and give it to Slurm; return the number of the job.

    Raises:
        ConfigError: there is no sbatch here, or it refused the script.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "There is no 'sbatch' on this machine: start this where jobs are given to Slurm, or see the script with "
            "--print."
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")
    done = subprocess.run(["sbatch", "--parsable", str(place)], capture_output=True, text=True)
    number = re.match(r"\d+", done.stdout)
    if done.returncode or number is None:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ConfigError(f"sbatch refused '{place}': {said[-1] if said else f'exit code {done.returncode}'}")
    return number[0]
