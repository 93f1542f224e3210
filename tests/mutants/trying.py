"""Tests in a copy of the tree: which functions each of them runs, and what becomes of them with a mutant."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

import psutil
import pytest
from coverage import Coverage, CoverageData

from tests.mutants.changes import functions

TICK = 0.05
# Run by every Python that a test starts: its lines are counted as the test's.
STARTED = "import os\nif 'COVERAGE_PROCESS_START' in os.environ:\n    import coverage\n    coverage.process_startup()\n"
SETTINGS = "[run]\nparallel = true\ndata_file = {data}\nsource = {source}\ncontext = ${{MUTANTS_TEST}}\n"


@dataclass
class Copy:
    """A copy of the files that git knows or would take, in which sources may be changed."""

    root: Path

    @property
    def package(self) -> Path:
        return self.root / "src" / "trainwright"

    def renew(self, original: Path) -> None:
        """Bring the copy to the state of the original. What Python compiled is recognised by content, not by time."""
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=original,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")
        shutil.rmtree(self.root, ignore_errors=True)
        for name in filter(None, names):
            if (original / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(original / name, self.root / name)
        (self.root / "src" / "sitecustomize.py").write_text(STARTED)
        compileall.compile_dir(self.package, quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)

    @contextmanager
    def with_file(self, path: str, text: str) -> Iterator[None]:
        """Give a file of the package another text meanwhile."""
        file = self.package / path
        before = file.read_text()
        file.write_text(text)
        try:
            yield
        finally:
            file.write_text(before)

    def run(self, job: Callable[[], int], limit: float, log: Path) -> int | None:
        """Run `job` in a fork of this process, at home in the copy; return what it returned, None after `limit` s.

        The fork has what this process has loaded, but the package and its tests.
        The limit is counted in ticks, so that a process that is
        stopped for a while loses no time. Whatever the job started is ended with it.
        """
        with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as scratch:
            child = os.fork()
            if not child:
                _become(self.root, scratch, log)
                code = 3
                try:
                    code = int(job())
                finally:
                    sys.stdout.flush()
                    os._exit(code)
            try:
                for _ in range(int(limit / TICK)):
                    time.sleep(TICK)
                    done, status = os.waitpid(child, os.WNOHANG)
                    if done:
                        return os.waitstatus_to_exitcode(status)
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return None
            finally:
                _end_all(child, scratch)


def _become(root: Path, scratch: str, log: Path) -> None:
    """Make a forked process one of the copy's: its folder, its imports, its temporary files, its output."""
    os.setpgid(0, 0)
    os.chdir(root)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout = sys.stderr = os.fdopen(1, "w", closefd=False)
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "trainwright")]:
        del sys.modules[name]
    here = str(Path(__file__).parents[2])
    sys.path[:] = [str(root / "src"), str(root), *(one for one in sys.path if one not in ("", here))]
    os.environ |= {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}", "TMPDIR": scratch, "OMP_NUM_THREADS": "1"}
    tempfile.tempdir = None


def _end_all(group: int, scratch: str) -> None:
    """End all processes of the group, and all that were started with a place of temporary files in the folder."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("TMPDIR", "").startswith(scratch):
                process.kill()


@dataclass
class _Recorder:
    """A plugin of pytest: the lines and seconds of each test that passed."""

    coverage: Coverage
    seconds: dict[str, float] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        began = time.perf_counter()
        os.environ["MUTANTS_TEST"] = item.nodeid
        self.coverage.switch_context(item.nodeid)
        result = yield
        self.coverage.switch_context("")
        self.seconds[item.nodeid] = time.perf_counter() - began
        return result  # type: ignore[return-value]

    def pytest_runtest_logreport(self, report: Any) -> None:
        if not report.passed:
            self.failed.add(report.nodeid)


def record(copy: Copy, test_file: str, marks: str, into: Path, limit: float) -> int | None:
    """Run a file's tests that have these marks; write {test: {"seconds": s, "functions": [...]}} of those that pass.

    Return the exit code of pytest, None after `limit` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="lines-") as folder:
        data, settings = Path(folder) / "lines", Path(folder) / "settings"
        settings.write_text(SETTINGS.format(data=data, source=copy.package))

        def job() -> int:
            os.environ |= {"COVERAGE_PROCESS_START": str(settings), "MUTANTS_TEST": ""}
            coverage = Coverage(config_file=str(settings))
            recorder = _Recorder(coverage)
            coverage.start()
            code = pytest.main([test_file, "-m", marks, "-p", "no:cacheprovider"], [recorder])
            coverage.stop()
            coverage.save()
            passed = {test: one for test, one in recorder.seconds.items() if test not in recorder.failed}
            (Path(folder) / "seconds").write_text(json.dumps(passed))
            return code

        code = copy.run(job, limit, into.with_suffix(".log"))
        if code is not None:
            seconds = json.loads((Path(folder) / "seconds").read_text())
            run = _functions_of(copy, Path(folder).glob("lines*"))
            tests = {test: {"seconds": took, "functions": sorted(run.get(test, ()))} for test, took in seconds.items()}
            into.write_text(json.dumps(tests, indent=1))
        return code


def _functions_of(copy: Copy, files: Iterator[Path]) -> dict[str, set[str]]:
    """Return {test: names of functions} of coverage's files."""
    known: dict[str, dict[int, str]] = {}
    found: dict[str, set[str]] = {}
    for file in files:
        data = CoverageData(str(file))
        data.read()
        for measured in data.measured_files():
            path = str(Path(measured).relative_to(copy.package))
            if path not in known:
                text = Path(measured).read_text()
                known[path] = {
                    n: f"{path}:{one.name}" for one in functions(text) for n in range(one.first, one.last + 1)
                }
            for line, contexts in data.contexts_by_lineno(measured).items():
                if line in known[path]:
                    for test in filter(None, contexts):
                        found.setdefault(test, set()).add(known[path][line])
    return found


def outcome(copy: Copy, path: str, text: str, tests: list[str], limit: float, log: Path) -> str | None:
    """Run tests in this order with a file changed; return the first that fails, "time" or None if all pass."""
    words = ["-x", "-p", "no:cacheprovider", "--tb=short", *tests]
    with copy.with_file(path, text):
        code = copy.run(lambda: int(pytest.main(words)), limit, log)
    if code is None:
        return "time"
    if code == 0:
        return None
    lines = log.read_text(errors="replace").splitlines()
    failed = [line.split(" ", 1)[1].partition(" - ")[0] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return failed[0] if failed else f"pytest ended with {code}"
