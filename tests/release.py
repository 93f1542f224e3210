"""`make release-check`: builds the packages, looks at their description, installs the wheel in an empty environment and
runs the README's first result there, from another folder. `python -m tests.release`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"


def do(what: str, *words: str | Path, where: Path = ROOT) -> None:
    """Run a command, and say what it was for and how long it took.

    Raises:
        CalledProcessError: it failed.
    """
    began = time.perf_counter()
    print(f"== {what}", flush=True)
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run([str(word) for word in words], cwd=where, env=outside, check=True)
    print(f"== {what}: {time.perf_counter() - began:.0f} s", flush=True)


def environment(folder: Path) -> Path:
    """Make an empty environment, and return the folder of its commands."""
    venv.create(folder, with_pip=True)
    return folder / "bin"


def main() -> None:
    """Check a release; whatever fails ends it."""
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="trainwright-release-") as folder:
        tools, elsewhere = environment(Path(folder) / "tools"), Path(folder) / "elsewhere"
        elsewhere.mkdir()
        pip = (tools / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        do("the tools", *pip, "build", "twine")
        do("packages", tools / "python", "-m", "build", "--outdir", DIST)
        do("their description", tools / "twine", "check", "--strict", *sorted(DIST.iterdir()))

        empty = environment(Path(folder) / "empty")
        wheel = next(DIST.glob("*.whl"))
        assert "trainwright/py.typed" in zipfile.ZipFile(wheel).namelist(), "type checkers would pass over the package"
        pip = (empty / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        do("the wheel in an empty environment", *pip, wheel, "--constraint", ROOT / "constraints.txt")
        do("its examples", empty / "trainwright", "examples", "copy", "all", where=elsewhere)
        names = "from trainwright import BertConfig, Trainer, TrainingArguments, pipeline"
        do("its names", empty / "python", "-c", names, where=elsewhere)
        do("the README's first result", empty / "trainwright", "demo", where=elsewhere)
    print(f"{', '.join(path.name for path in sorted(DIST.iterdir()))}: fine")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"It failed with {error.returncode}: {' '.join(error.cmd)}")
