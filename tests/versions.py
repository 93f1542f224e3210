"""`make test-versions`: the tests on the oldest versions that pyproject.toml allows, on those of constraints.txt, on
the newest, and on the newest with the newest Python of this machine. Prints the table of docs/versions.md.

Each has an environment of its own in `.versions`, made by uv. Tests of the page (a browser) and of PostgreSQL are left
out. With names (`python -m tests.versions floor`) only these are run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACE = ROOT / ".versions"
SETS = {
    "floor": ["--resolution", "lowest-direct"],
    "pinned": ["--constraints", "constraints.txt"],
    "newest": ["--upgrade"],
    "newest Python": ["--upgrade"],
}
SHOWN = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "numpy")
TESTS = [
    "--ignore=tests/jobs/test_page.py",
    "-k",
    "not postgresql",
    "--durations=0",
    "-n",
    "2",
    "-p",
    "no:cacheprovider",
]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
HEAD = ["versions", "Python", *SHOWN, "tests"]


def newest_python() -> str | None:
    """Return the newest Python on the PATH that is newer than this one, up to 3.14."""
    later = range(14, sys.version_info.minor, -1)
    return next((found for minor in later if (found := shutil.which(f"python3.{minor}"))), None)


def run(name: str, python: str) -> tuple[list[str], bool]:
    """Install one set of versions, run the tests with it, and return its row of the table and whether all passed."""
    folder = PLACE / name.replace(" ", "-")
    own = folder / "bin" / "python"
    uv = [str(Path(sys.executable).parent / "uv"), "--quiet"]
    subprocess.run([*uv, "venv", "--clear", "--python", python, str(folder)], cwd=ROOT, check=True)
    subprocess.run(
        [*uv, "pip", "install", "--compile-bytecode", "--python", str(own), *SETS[name], "--editable", ".[dev,quant]"],
        cwd=ROOT,
        check=True,
    )
    listed = subprocess.run(
        [*uv, "pip", "list", "--python", str(own), "--format", "json"], capture_output=True, text=True, check=True
    )
    installed = {one["name"]: one["version"] for one in json.loads(listed.stdout)}
    version = subprocess.run([str(own), "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    print(f"{name}: Python {version}, {', '.join(f'{one} {installed[one]}' for one in SHOWN)}", flush=True)
    path = f"{own.parent}{os.pathsep}{os.environ['PATH']}"
    log = PLACE / f"{folder.name}.log"
    with log.open("w") as file:
        done = subprocess.run(
            [str(own), "-m", "pytest", *TESTS],
            cwd=ROOT,
            env={**os.environ, **ONE_THREAD, "PATH": path},
            stdout=file,
            stderr=file,
        )
    lines = log.read_text().splitlines()
    print("\n".join(line for line in lines if line.startswith(("FAILED", "ERROR"))), flush=True)
    outcome = re.sub(r" in .*", "", lines[-1].strip("= ")) if lines else "none"
    return [name, version, *(installed[one] for one in SHOWN), outcome], done.returncode == 0


def main(names: list[str]) -> int:
    """Run the named sets, or all; return 0 when every test passed."""
    unknown = set(names) - SETS.keys()
    if unknown:
        print(f"There is no set '{unknown.pop()}'; known: {', '.join(SETS)}.", file=sys.stderr)
        return 2
    rows, fine = [], True
    for name in names or SETS:
        python = newest_python() if name == "newest Python" else sys.executable
        if python is None:
            print(f"No Python newer than {sys.version_info.major}.{sys.version_info.minor} was found on the PATH.")
            continue
        row, passed = run(name, python)
        rows.append(row)
        fine = fine and passed
    for row in [HEAD, ["---"] * len(HEAD), *rows]:
        print(f"| {' | '.join(row)} |")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
