"""The rules of the house: short files and functions, imports that flow one way, light imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "trainwright"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE = 400
LONGEST_FUNCTION = 60

# From the bottom up; a module may import from its own package and from the lines below it.
LAYERS = [
    ["errors", "compat", "terminal"],
    ["bars"],
    ["data.files", "data.splits", "data.as_text"],
    ["world", "held", "devices", "evaluation_mode"],
    ["processes"],
    ["args", "state", "batch", "randomness"],
    ["config"],
    ["data", "parallel", "optim", "models", "objectives"],
    ["checkpoint", "callbacks"],
    ["engine"],
    ["tasks"],
    ["upstream"],
    ["pipelines", "config.composition"],
    ["cli"],
    ["__main__"],
]
ALONE = {"jobs": {"errors", "data.files", "data.splits"}}
MAY_IMPORT_JOBS = {"callbacks.job", "cli"}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def unit_of(module: str) -> str:
    """Return the entry of LAYERS that a module belongs to."""
    units = [unit for line in LAYERS for unit in line]
    found = [unit for unit in units if module == unit or module.startswith(unit + ".")]
    return max(found, key=len) if found else module.split(".")[0]


def imports_of(path: Path) -> set[str]:
    """Return the modules of ours that a file imports, also inside functions; not those for type checkers alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    names = {name_of(file) for file in FILES}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trainwright"):
            module = (node.module or "").removeprefix("trainwright").lstrip(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                found.add(inner if inner in names else module)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("trainwright.") for a in node.names if a.name.startswith("trainwright.")}
    return found - {""}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert text.count("\n") <= LONGEST_FILE, f"{path} is longer than {LONGEST_FILE} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{path.name}:{node.lineno} {node.name} has {length} lines"


def test_imports_flow_one_way():
    level = {unit: number for number, line in enumerate(LAYERS) for unit in line}
    wrong = []
    for path in FILES:
        module = name_of(path)
        if not module:
            continue
        source = unit_of(module)
        for imported in imports_of(path):
            target = unit_of(imported)
            if source == target:
                continue
            if source in ALONE:
                allowed = target in ALONE[source]
            elif target in ALONE:
                allowed = any(module == unit or module.startswith(unit + ".") for unit in MAY_IMPORT_JOBS)
            elif source.split(".")[0] == target.split(".")[0]:
                allowed = level[target] <= level[source]
            else:
                allowed = level[target] < level[source]
            if not allowed:
                wrong.append(f"{module} imports {imported}")
    assert not wrong, "\n".join(wrong)


def test_no_import_cycles():
    graph = {name_of(path): imports_of(path) for path in FILES if name_of(path)}
    # an import inside a function may close a circle that no module-level import does
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {error.args[1]}")


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {"torch", "transformers", "accelerate", "numpy", "pandas", "datasets", "rich", "omegaconf"}


def test_importing_the_package_imports_nothing_heavy():
    assert not modules_after("import trainwright") & HEAVY


def test_help_imports_nothing_heavy():
    code = "from trainwright.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    assert not modules_after(code) & HEAVY


def test_arguments_import_no_torch():
    assert not modules_after("import trainwright; trainwright.TrainingArguments('out')") & HEAVY


@pytest.mark.slow
def test_a_plain_module_trains_without_transformers_and_accelerate(tmp_path):
    code = f"""
import torch, trainwright
sys.path.insert(0, {str(ROOT)!r})
from tests import tiny
args = trainwright.TrainingArguments({str(tmp_path)!r}, max_steps=2, disable_tqdm=True, use_cpu=True)
trainwright.Trainer(tiny.new_line(), args, train_dataset=tiny.line_rows(), eval_dataset=tiny.line_rows()).train()
"""
    loaded = modules_after(code)
    assert "torch" in loaded
    assert not loaded & {"transformers", "accelerate", "datasets", "pandas", "rich", "omegaconf"}
