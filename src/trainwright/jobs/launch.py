"""What a worker starts: `python -m trainwright.jobs.launch JOB NAME script.py ...`, a Python command as a job."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from trainwright.jobs import commands, places
from trainwright.jobs.tracking import tracked


def command(job: str, name: str, begun: Sequence[str]) -> list[str]:
    """Return the command that runs another one as a job, with the same options of Python."""
    options, program = commands.split(begun)
    return [*options, "-m", "trainwright.jobs.launch", job, name, *program]


def main(argv: Sequence[str]) -> int:
    """Run a Python command in this process, as a job; an error in it is an error of this process."""
    job, name, *program = argv
    written = places.job_folder(job) / places.PARAMS
    params = json.loads(written.read_text(encoding="utf-8")) if written.is_file() else {}
    with tracked(name, params, job=job):
        if program[0] == "-m":
            sys.argv = program[1:]
            runpy.run_module(program[1], run_name="__main__", alter_sys=True)
        elif program[0] == "-c":
            sys.argv = ["-c", *program[2:]]
            exec(compile(program[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = program
            if not sys.flags.safe_path:  # in the place of the folder that -m puts there
                sys.path[0] = str(Path(program[0]).resolve().parent)
            runpy.run_path(program[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
