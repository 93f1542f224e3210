"""`make mutants`: of COUNT mutants drawn with SEED from the modules that decide numbers, data, checkpoints and the
states of jobs, how many do the tests catch?

First the quick tests are run once, file by file, to learn which functions each of them runs; then each mutant meets
the tests that run its function, the quickest first, until one fails. Survivors meet the slow tests in the same way.
Everything learnt is kept in `.mutants`, so that a run goes on where it was ended: which functions a test runs until its
file changes, what became of a mutant until its function changes; a survivor meets new and changed tests again.
Mutants that change nothing are named in equal.toml, with the reason, and others are drawn for them.

`python -m tests.mutants quick` leaves the slow tests out.
"""

from __future__ import annotations

import hashlib
import importlib
import json
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


def learnt(copy: Copy, marks: str) -> dict[str, Any]:
    """Return {test: its file's digest, seconds and functions} for the tests with these marks; run what is not known."""
    tests: dict[str, Any] = {}
    for file in sorted((copy.root / "tests").rglob("test_*.py")):
        name = str(file.relative_to(copy.root))
        state = digest(file)
        kept = PLACE / "tests" / f"{name.removesuffix('.py').replace('/', '.')}.{marks}.{state}.json"
        if not kept.exists():
            for old in kept.parent.glob(f"{kept.name.removesuffix(f'{state}.json')}*"):
                old.unlink()
            print(f"{marks} {name}", flush=True)
            code = record(copy, name, MARKS[marks], kept, FILE_LIMIT)
            if code not in (0, 5):  # 5: it has no tests with these marks
                print(f"{name}: not all of its {marks} tests pass; see {kept.with_suffix('.log')}", flush=True)
        found = json.loads(kept.read_text()) if kept.exists() else {}
        tests |= {test: {"file": state, **one} for test, one in found.items()}
    return tests


def attempt(copy: Copy, mutant: Mutant, text: str, tests: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of a mutant after it met these tests; those that it survived already are not run again."""
    kept = PLACE / "results" / f"{mutant.key}.json"
    result = json.loads(kept.read_text()) if kept.exists() else {**asdict(mutant), "caught": None, "survived": {}}
    where = f"{mutant.path}:{mutant.function}"
    covering = sorted((one["seconds"], test) for test, one in tests.items() if where in one["functions"])
    patience, wanted = PATIENCE, []
    for seconds, test in covering:
        patience -= seconds
        if result["survived"].get(test) != tests[test]["file"] and (patience > 0 or not wanted):
            wanted.append(test)
    if result["caught"] or not wanted:
        return result
    limit = 60 + 5 * sum(tests[test]["seconds"] for test in wanted)
    result["caught"] = outcome(copy, mutant.path, text, wanted, limit, PLACE / "results" / f"{mutant.key}.log")
    if not result["caught"]:
        result["survived"] |= {test: tests[test]["file"] for test in wanted}
    kept.write_text(json.dumps(result, indent=1))
    return result


def told(result: dict[str, Any]) -> str:
    words = " ".join(result["before"].split()), " ".join(result["after"].split())
    return f"{result['key']} {result['path']}:{result['line']} {result['function']}: `{words[0]}` to `{words[1]}`"


def main(kinds: list[str]) -> int:
    """Draw, learn, try, and print the survivors and the score; return 2 for words that are not understood."""
    if unknown := set(kinds) - MARKS.keys():
        print(f"There are no '{unknown.pop()}' tests; known: {', '.join(MARKS)}.", file=sys.stderr)
        return 2
    for name in LOADED:
        importlib.import_module(name)
    for folder in ("tests", "results"):
        (PLACE / folder).mkdir(parents=True, exist_ok=True)
    copy = Copy(PLACE / "tree")
    copy.renew(ROOT)
    equal: dict[str, str] = tomllib.loads(EQUAL.read_text())
    sample = list(islice(drawn(modules(copy.package), equal), COUNT))
    results: dict[str, dict[str, Any]] = {}
    for kind in kinds or MARKS:
        tests = learnt(copy, kind)
        for number, (mutant, text) in enumerate(sample, 1):
            if results.get(mutant.key, {}).get("caught"):
                continue
            result = results[mutant.key] = attempt(copy, mutant, text, tests)
            print(f"{kind} {number}/{len(sample)} {told(result)}: {result['caught'] or 'survives'}", flush=True)
    survivors = [one for one in results.values() if not one["caught"]]
    print(
        "\nSurvivors:",
        *(told(one) + ("" if one["survived"] else ", which no test runs") for one in survivors),
        sep="\n",
    )
    print(
        f"{len(results) - len(survivors)} of {len(results)} mutants are caught; {len(equal)} equal ones are left out."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
