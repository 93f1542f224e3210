"""Where jobs are kept: a folder of this user's, and a database."""

from __future__ import annotations

import os
import re
import stat
import sys
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

from trainwright.errors import JobError

OFF = ("off", "0", "no", "false")
ON = ("on", "1", "yes", "true")
JOURNAL, LOG, PARAMS, LOCK = "job.jsonl", "output.log", "params.json", "lock"
RANK_END = "rank.json"  # how a rank ended badly
# in the environment of a job's process: which job, which attempt, whether it goes on, <job>:<pid> of who is it, and
# the worker that began it
JOB_ID, ATTEMPT = "TRAINWRIGHT_JOB_ID", "TRAINWRIGHT_JOB_ATTEMPT"
RESUME, OWNER = "TRAINWRIGHT_JOB_RESUME", "TRAINWRIGHT_JOB_OWNER"
WORKER = "TRAINWRIGHT_JOB_WORKER"
_HOME, _DATABASE, _SQLITE = "TRAINWRIGHT_HOME", "TRAINWRIGHT_DB", "sqlite:///"
_OURS = re.compile(r"id(-\w+)?|jobs|jobs\.db.*|ui-\d+\.html|alerts(\.yaml)?")
_OTHERS = 0o077
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "ceph", "gpfs", "beegfs", "fuse.sshfs", "9p")


def home() -> Path:
    """Return the folder of all jobs: `TRAINWRIGHT_HOME`, by default ~/.trainwright.

    A relative one is that of the folder where it was asked for first, also for the processes that this one begins.

    Raises:
        JobError: this user has no home folder, and none is given.
    """
    given = os.environ.get(_HOME)
    try:
        folder = Path(given or "~/.trainwright").expanduser()
    except RuntimeError:
        raise JobError(f"This user has no home folder; give one for jobs in {_HOME}.") from None
    if not folder.is_absolute():
        folder = folder.absolute()
        os.environ[_HOME] = str(folder)
    return folder


def has_home() -> bool:
    """Whether there is a folder for jobs; where there is none that is said, once."""
    try:
        home()
    except JobError as error:
        _note(f"this run is not tracked: {error}")
        return False
    return True


def database_url() -> str:
    """Return the database's address: `TRAINWRIGHT_DB`, by default an SQLite file in the folder of all jobs.

    A relative file is that of the folder where it was asked for first.
    """
    given = os.environ.get(_DATABASE, "")
    start, path = given[: len(_SQLITE)], given[len(_SQLITE) :]
    if start == _SQLITE and path[:1] not in ("", "/", ":"):
        os.environ[_DATABASE] = given = f"{_SQLITE}{Path(path).absolute()}"
    return given or f"{_SQLITE}{home() / 'jobs.db'}"


def is_name(job: str) -> bool:
    """Whether a job may be named so."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", job) is not None


def job_folder(job: str) -> Path:
    """Return a job's folder.

    Raises:
        JobError: that is no name of a job.
    """
    if not is_name(job):
        raise JobError(f"'{job}' is no name of a job: letters, digits, '-', '_' and '.', at most 64, are.")
    return home() / "jobs" / job


def make(folder: Path) -> None:
    """Make a folder of a job; that of all jobs is this user's alone, for parameters and logs may hold secrets."""
    top = home()
    top.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    if os.name == "posix" and top.stat().st_mode & _OTHERS:
        _close(top)


def _close(top: Path) -> None:
    """Take from others what a folder of all jobs gave them: all of it, or only our part where it holds other things."""
    inside = [*top.iterdir()]
    ours = [path for path in inside if _OURS.fullmatch(path.name)]
    alone = len(ours) == len(inside) or top == Path(os.path.expanduser("~/.trainwright"))
    for path in [top] if alone else ours:
        mode = stat.S_IMODE(path.lstat().st_mode)
        if not mode & _OTHERS:
            continue
        try:
            path.chmod(mode & ~_OTHERS)
            left = path.stat().st_mode & _OTHERS
        except OSError:
            left = mode & _OTHERS
        if left:
            _note(f"others on this machine can read '{path}' (mode {mode:o}), and this user cannot change that.")
        elif path == top:
            _note(f"'{top}' could be read by others (mode {mode:o}); it is this user's alone now.")


@cache
def _note(text: str) -> None:
    print(f"Note: {text}", file=sys.stderr, flush=True)


def home_id(folder: Path) -> str:
    """Return the name of a folder of all jobs, which several machines may share, or each may have its own."""
    path = folder / "id"
    make(folder)
    if not path.exists():
        name = uuid.uuid4().hex
        whole = folder / f"id-{name}"
        whole.write_text(name, encoding="utf-8")
        with suppress(FileExistsError):  # another process was first
            os.link(whole, path)
        whole.unlink()
    return path.read_text(encoding="utf-8")


def new_id() -> str:
    """Return a name for a new job."""
    return uuid.uuid4().hex[:8]


def job_of_this_process() -> str | None:
    """Return the job of the queue that this very process is, and not one that it began."""
    job, _, pid = os.environ.get(OWNER, "").partition(":")
    return job if pid == str(os.getpid()) and job == os.environ.get(JOB_ID) else None


def is_off() -> bool:
    """Whether `TRAINWRIGHT_JOBS=off`: nothing is tracked."""
    return os.environ.get("TRAINWRIGHT_JOBS", "").lower() in OFF


def is_on() -> bool:
    """Whether `TRAINWRIGHT_JOBS=on`: every Trainer is a job, with no line of code."""
    return os.environ.get("TRAINWRIGHT_JOBS", "").lower() in ON


def resumes() -> bool:
    """Whether this process was begun to go on with a job that had stopped."""
    return os.environ.get(RESUME) == "1"


def on_network(path: Path) -> bool:
    """Whether a path lies on a network file system, as /proc/mounts tells; False where there is none."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return False
    found, kind = "", ""
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        _, place, name, *_ = line.split(" ")
        place = place.replace("\\040", " ")
        if len(place) >= len(found) and (path.is_relative_to(place)):
            found, kind = place, name
    return kind in _NETWORK
