"""`make mutants`: of COUNT mutants drawn with SEED from the modules that decide numbers, data, checkpoints and the
states of jobs, how many do the tests catch?

They are tried one by one in the order of the draw, so that those which were tried, however many, are a sample of
all. A mutant meets the tests that run its function: of what is known, the quickest first; then file by file, each file
run once to learn which functions its tests run. First come the files that name its module and those of its package.
Everything learnt is kept in `.mutants`, so that a run goes on where it was ended: which functions a test runs until its
file changes, what became of a mutant until its function changes; a survivor meets new and changed tests again.
Mutants that change nothing are named in equal.toml, with the reason, and others are drawn for them.

`python -m tests.mutants near` runs no other files than those first ones to learn of them, and what is known already: a
lower bound for a tenth of the time. `quick` leaves the slow tests out; `score` tells what is known and tries nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from tests import ROOT
from tests.mutants.changes import Mutant, mutants
from tests.mutants.trying import Copy, outcome, record

PLACE = ROOT / ".mutants"
EQUAL = Path(__file__).parent / "equal.toml"
COUNT, SEED = 200, 0
MODULES = (
    "batch.py", "randomness.py", "objectives/*.py", "optim/*.py", "parallel/*.py", "data/**/*.py", "checkpoint/**/*.py",
    "session/*.py", "inputs/*.py", "losses/*.py", "saving/*.py", "evaluation/*.py", "training/*.py", "trainer/*.py",
    "callbacks/flow.py", "callbacks/states.py", "callbacks/early_stopping.py", "tasks/algebra/**/*.py",
    "jobs/commands.py", "jobs/outcomes.py", "jobs/processes.py", "jobs/values.py", "jobs/journal/journal.py",
    "jobs/journal/records.py", "jobs/journal/timesheet.py", "jobs/store/attempts.py", "jobs/store/ingest.py",
    "jobs/store/store.py", "jobs/tracking/tracking.py", "jobs/worker/health.py", "jobs/worker/queue.py",
    "jobs/worker/worker.py",
)  # fmt: skip
WORDS_ALONE = ("saving/model_card.py", "training/run_cards.py", "saving/hub.py", "session/symptoms.py")
# Loaded once for all forks; not datasets, whose caches are each test run's own.
LOADED = ("torch", "transformers.training_args", "hypothesis", "sympy", "sqlalchemy", "accelerate", "peft")
MARKS = {"quick": "not slow and not ranks", "slow": "slow or ranks"}
KINDS = ("all", "near", "quick", "score")
FILE_LIMIT = 1800.0  # seconds for the tests of one file, measured
PATIENCE = 60.0  # seconds of its tests that a mutant may survive before it counts as a survivor


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def modules(package: Path) -> dict[str, str]:
    """Return {path within the package: text} of what is mutated."""
    paths = {path for pattern in MODULES for path in package.glob(pattern)} - {package / one for one in WORDS_ALONE}
    return {str(path.relative_to(package)): path.read_text() for path in sorted(paths)}


def drawn(texts: dict[str, str], equal: dict[str, str]) -> Iterator[tuple[Mutant, str]]:
    """Yield all mutants with their file's text, in an order of SEED's that changes only where functions do."""
    every = {one.key: one for path, text in texts.items() for one in mutants(path, text)}
    gone = sorted(equal.keys() - every.keys())
    if gone:
        print(f"No mutants any more, to be taken out of {EQUAL.name}: {', '.join(gone)}")
    for key in sorted(every.keys() - equal.keys(), key=lambda key: hashlib.sha256(f"{SEED} {key}".encode()).digest()):
        text = every[key].applied(texts[every[key].path])
        if text is not None:
            yield every[key], text


def near(copy: Copy, path: str) -> list[str]:
    """Return the files of tests that name a module, then the others in the folder of its package."""
    module = path.removesuffix(".py").replace("/", ".")
    parent, _, name = module.rpartition(".")
    named = re.compile(rf"trainwright\.{module}\b|from trainwright\.{parent or '?'} import [^\n]*\b{name}\b")
    folders = (copy.root / "tests" / parent.replace(".", "/")).parents if parent else ()
    packages = [copy.root / "tests" / parent.replace(".", "/"), *folders]
    own = next((one for one in packages if one.is_dir() and one != copy.root / "tests"), None)
    files = sorted((copy.root / "tests").rglob("test_*.py"))
    naming = [file for file in files if named.search(file.read_text())]
    beside = [file for file in files if own in file.parents and file not in naming]
    return [str(file.relative_to(copy.root)) for file in naming + beside]


def groups(copy: Copy, path: str, kind: str) -> list[tuple[str, str]]:
    """Return (file of tests, marks) in the order in which a mutant of the module at `path` meets them."""
    files = near(copy, path)
    if kind != "near":
        every = sorted(str(file.relative_to(copy.root)) for file in (copy.root / "tests").rglob("test_*.py"))
        files += [file for file in every if file not in files]
    return [(file, marks) for marks in (["quick"] if kind == "quick" else MARKS) for file in files]


def kept_at(copy: Copy, file: str, marks: str) -> Path:
    name = f"{file.removesuffix('.py').replace('/', '.')}.{marks}"
    return PLACE / "tests" / f"{name}.{digest(copy.root / file)}.json"


def learnt(copy: Copy, file: str, marks: str) -> dict[str, Any]:
    """Return {test: its file's digest, seconds and functions} for the tests with these marks; run what is not known."""
    kept = kept_at(copy, file, marks)
    if not kept.exists():
        for old in kept.parent.glob(f"{kept.name.rsplit('.', 2)[0]}.*"):
            old.unlink()
        print(f"{marks} {file}", flush=True)
        code = record(copy, file, MARKS[marks], kept, FILE_LIMIT)
        if code not in (0, 5):  # 5: it has no tests with these marks
            print(f"{file}: not all of its {marks} tests pass; see {kept.with_suffix('.log')}", flush=True)
            if not kept.exists():
                kept.write_text("{}")
    state = digest(copy.root / file)
    return {test: {"file": state, **one} for test, one in json.loads(kept.read_text()).items()}


def known(mutant: Mutant) -> dict[str, Any] | None:
    """Return what became of a mutant, where it was tried."""
    kept = PLACE / "results" / f"{mutant.key}.json"
    return json.loads(kept.read_text()) if kept.exists() else None


def attempt(copy: Copy, mutant: Mutant, text: str, kind: str) -> dict[str, Any]:
    """Return what is known of a mutant after it met its tests; those that it survived already are not run again."""
    result = known(mutant) or {**asdict(mutant), "caught": None, "survived": {}}
    if result["caught"]:
        return result
    where, patience = f"{mutant.path}:{mutant.function}", PATIENCE
    order = groups(copy, mutant.path, kind)  # of what is not known
    every = groups(copy, mutant.path, "quick" if kind == "quick" else "all")
    there = [one for one in every if kept_at(copy, *one).exists()]
    for some in [there, *([one] for one in order if one not in there)]:
        tests = {test: one for group in some for test, one in learnt(copy, *group).items() if where in one["functions"]}
        wanted: list[str] = []
        for test in sorted(tests, key=lambda test: float(tests[test]["seconds"])):
            if patience <= 0:
                break
            patience -= tests[test]["seconds"]
            if result["survived"].get(test) != tests[test]["file"]:
                wanted.append(test)
        if wanted:
            limit = 60 + 5 * sum(tests[test]["seconds"] for test in wanted)
            log = PLACE / "results" / f"{mutant.key}.log"
            result["caught"] = outcome(copy, mutant.path, text, wanted, limit, log)
            if result["caught"]:
                break
            result["survived"] |= {test: tests[test]["file"] for test in wanted}
        if patience <= 0:
            break
    (PLACE / "results" / f"{mutant.key}.json").write_text(json.dumps(result, indent=1))
    return result


def told(result: dict[str, Any]) -> str:
    words = " ".join(result["before"].split()), " ".join(result["after"].split())
    return f"{result['key']} {result['path']}:{result['line']} {result['function']}: `{words[0]}` to `{words[1]}`"


def score(results: list[dict[str, Any]]) -> str:
    return f"{sum(bool(one['caught']) for one in results)} of {len(results)}"


def main(words: list[str]) -> int:
    """Draw, try, and print the survivors and the score; return 2 for words that are not understood."""
    kind = words[0] if words else "all"
    if len(words) > 1 or kind not in KINDS:
        print(f"`{' '.join(words)}` is not understood; known: {', '.join(KINDS)}.", file=sys.stderr)
        return 2
    for folder in ("tests", "results"):
        (PLACE / folder).mkdir(parents=True, exist_ok=True)
    equal: dict[str, str] = tomllib.loads(EQUAL.read_text())
    results = []
    if kind == "score":
        found = (known(mutant) for mutant, _ in islice(drawn(modules(ROOT / "src" / "trainwright"), equal), COUNT))
        results = [one for one in found if one is not None]
    else:
        for name in LOADED:
            importlib.import_module(name)
        copy = Copy(PLACE / "tree")
        copy.renew(ROOT)
        sample = list(islice(drawn(modules(copy.package), equal), COUNT))
        for number, (mutant, text) in enumerate(sample, 1):
            results.append(attempt(copy, mutant, text, kind))
            became = results[-1]["caught"] or "survives"
            print(f"{number}/{len(sample)} {told(results[-1])}: {became}; {score(results)} are caught", flush=True)
    survivors = [one for one in results if not one["caught"]]
    for one in survivors:
        print("survives:", told(one) + ("" if one["survived"] else ", which no test runs"))
    print(f"{score(results)} mutants are caught; {len(equal)} equal ones are left out.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
