"""What a worker starts: `python -m trainwright.jobs.launch JOB python script.py ...`, the command as a job."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from trainwright.jobs import places
from trainwright.jobs.tracking import tracked


def main(argv: Sequence[str]) -> int:
    """Run a Python command in this process, as a job; an error in it is an error of this process."""
    job, name, _, *rest = argv
    folder = places.job_folder(job)
    written = folder / places.PARAMS
    params = json.loads(written.read_text(encoding="utf-8")) if written.is_file() else {}
    with tracked(name, params, job=job):
        if rest[0] == "-m":
            sys.argv = rest[1:]
            sys.path.insert(0, str(Path.cwd()))
            runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = rest
            sys.path.insert(0, str(Path(rest[0]).resolve().parent))
            runpy.run_path(rest[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
