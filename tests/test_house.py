"""The rules of the house: short files and functions, imports that flow one way, light imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import version
from pathlib import Path

import pytest

import trainwright
from tests import ROOT

PACKAGE = ROOT / "src" / "trainwright"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE = 400
LONGEST_FUNCTION = 60
MOST_FILES = 15

# From the bottom up; a module may import from its own package and from the lines below it.
LAYERS = [
    ["errors", "compat", "terminal"],
    ["bars"],
    ["data.sources", "checkpoint.layout"],
    ["trackers"],
    ["world", "held", "devices", "evaluation_mode", "parallel.layouts"],
    ["processes"],
    ["args", "state", "batch", "randomness"],
    ["config"],
    ["data", "parallel", "optim", "models", "objectives"],
    ["generation", "rewards"],
    ["checkpoint", "callbacks", "parallel.blocks", "parallel.sharded", "parallel.tensor", "parallel.choice"],
    ["session"],
    ["inputs"],
    ["losses"],
    ["saving"],
    ["evaluation"],
    ["training"],
    ["trainer"],
    ["parts", "reinforcement"],
    ["tasks"],
    ["upstream", "verifiers"],
    ["methods"],
    ["pipelines", "config.composition"],
    ["trained", "launching"],
    ["cli"],
    ["__main__"],
]
TOOLS = ("mypy", "ruff", "torch", "numpy", "sqlalchemy", "starlette")
PINNED = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
with_pinned_versions = pytest.mark.skipif(
    any(version(tool).partition("+")[0] != PINNED[tool] for tool in TOOLS),
    reason="linter and types differ between versions",
)
ALONE = {"jobs": {"errors", "data.sources", "checkpoint.layout", "trackers"}}
MAY_IMPORT_JOBS = {"callbacks.job", "cli", "launching.worker", "trackers.job"}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


NAMES = {name_of(path) for path in FILES}


@cache
def unit_of(module: str) -> str:
    """Return the entry of LAYERS that a module belongs to."""
    units = [unit for line in LAYERS for unit in line]
    found = [unit for unit in units if module == unit or module.startswith(unit + ".")]
    return max(found, key=len) if found else module.split(".")[0]


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def imports_of(path: Path, for_types: bool = False) -> set[str]:
    """Return the modules of ours that a file imports, also inside functions; those for type checkers where wanted."""
    nodes, found = nodes_of(path), set()
    checks = [node for node in nodes if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    for_checkers = {one for node in checks for part in node.body for one in ast.walk(part)}
    for node in nodes:
        if node in for_checkers and not for_types:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trainwright"):
            module = (node.module or "").removeprefix("trainwright").lstrip(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                found.add(inner if inner in NAMES else module)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("trainwright.") for a in node.names if a.name.startswith("trainwright.")}
    return found - {""}


def test_files_and_functions_are_short():
    wrong = []
    for path in FILES:
        if path.read_text().count("\n") > LONGEST_FILE:
            wrong.append(f"{path} is longer than {LONGEST_FILE} lines")
        for node in nodes_of(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    wrong.append(f"{path}:{node.lineno} {node.name} has {length} lines")
    assert not wrong, "\n".join(wrong)


def test_packages_are_small():
    """A directory is taken in at a glance."""
    for folder in {path.parent for path in FILES}:
        count = len(list(folder.glob("*.py")))
        assert count <= MOST_FILES, f"{folder} holds {count} files: what of it has a duty of its own?"


TESTS = ROOT / "tests"
ACROSS = {"fixtures", "gpu", "mutants", "ranks", "reliability", "scripts", "sharded", "walks"}
ACROSS_FILES = {"test_docs", "test_house"}


def test_tests_lie_in_the_folder_of_the_package_that_they_test():
    for path in TESTS.rglob("test_*.py"):
        folder = path.parent.relative_to(TESTS)
        if folder.parts and folder.parts[0] not in ACROSS:
            assert list((PACKAGE / folder).glob("*.py")), f"{path}: there is no package '{folder}' that it could test"
        elif not folder.parts and path.stem not in ACROSS_FILES:
            module = PACKAGE / f"{path.stem.removeprefix('test_')}.py"
            assert module.exists(), f"{path}: there is no {module}; tests of packages lie in their folders"


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


TELL_RANK_AND_SIZE = ("world", "processes", "parallel.", "args.")  # `args` by transformers' names
KNOW_THE_WORLD = {  # to choose a device, or before there is a strategy to speak on rank zero or refuse several
    "training.setup", "config.keys.uses", "checkpoint.lock", "cli.folders", "cli.tour.demo", "tasks.language.build",
    "config.reading.validation", "tasks.language.planning.layouts",
}  # fmt: skip
READS_THE_ENVIRONMENT = "jobs.tracking.tracking"  # which imports no `world`: only rank 0 is a job
ACCELERATES = "trainer.accelerator"  # hands the number and the rank on, under accelerate's names


def test_rank_and_size_are_read_by_the_strategies_alone():
    for path in FILES:
        module = name_of(path)
        if module.startswith(TELL_RANK_AND_SIZE):
            continue
        for node in nodes_of(path):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Name) and node.id == "current_world":
                assert module in KNOW_THE_WORLD, where
            elif isinstance(node, ast.Attribute) and node.attr in ("rank", "size", "local_rank"):
                assert not isinstance(node.value, ast.Name | ast.Call) or "world" not in ast.dump(node.value), where
            elif isinstance(node, ast.Attribute):
                assert node.attr not in ("world", "get_rank", "get_world_size"), where
                assert node.attr not in ("world_size", "process_index") or module == ACCELERATES, where
            elif isinstance(node, ast.Constant):
                assert node.value not in ("RANK", "LOCAL_RANK", "WORLD_SIZE") or module == READS_THE_ENVIRONMENT, where


THE_FACE = {"trainer.trainer", "trainer.seq2seq"}
ENGINE = ("session.", "inputs.", "losses.", "saving.", "evaluation.", "training.", "trainer.")
SHOW_SESSIONS = ("trainer.face", "trainer.compatibility")
MAKE_TRAINERS = {  # or subclass the Trainer, or hand one on that was made: all above the engine
    "config.composition", "tasks.algebra.trainer", "tasks.code.build", "tasks.imitation.trainer",
    "tasks.language.build", "tasks.language.holder",
}  # fmt: skip


def test_the_engine_and_what_it_serves_know_no_trainer():
    """They take a session, or parts of it; see `session/session.py`."""
    for path in FILES:
        module = name_of(path)
        known = imports_of(path, for_types=True) & THE_FACE
        assert not known or module in THE_FACE | MAKE_TRAINERS or not module, f"{path} imports {known}"
        for node in nodes_of(path):
            if isinstance(node, ast.arg) and module.startswith(ENGINE) and module not in SHOW_SESSIONS:
                assert node.arg != "trainer", f"{path}:{node.lineno}"


CHECKPOINT_NAMES = {
    "optimizer.pt", "scheduler.pt", "scaler.pt", "ema.pt", "others.pt", "model.safetensors", "trainer_state.json",
    "model.safetensors.index.json", "trainwright.json", "manifest.json", "training_args.bin", "rng_state",
    "checkpoint-",
}  # fmt: skip


def test_the_files_of_a_checkpoint_are_named_in_one_module():
    """Nobody else spells them, but in what is said to people."""
    for path in FILES:
        if name_of(path) == "checkpoint.layout":
            continue
        for node in nodes_of(path):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in CHECKPOINT_NAMES, f"{path}:{node.lineno}"
                assert not node.value.startswith(("checkpoint-*", "rng_state_")), f"{path}:{node.lineno}"


def test_methods_are_named_in_their_table_alone():
    """Nobody else asks which one it is, and nobody imports one: what differs between them is in their own files."""
    for path in FILES:
        module = name_of(path)
        if module in ("config.methods", "config.params") or module.startswith("methods"):
            continue
        assert not {one for one in imports_of(path) if one.split(".")[0] == "methods"}, path
        for node in nodes_of(path):
            if isinstance(node, ast.Constant):
                assert node.value not in ("DPO", "PRETRAIN", "TRL_SFT", "TRL_DPO"), f"{path}:{node.lineno}"


def test_no_import_cycles():
    graph = {name_of(path): imports_of(path, for_types=True) for path in FILES if name_of(path)}
    # an import inside a function, or for a type checker, may close a circle that no module-level import does
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


@pytest.mark.slow  # `make check` runs the three itself
@with_pinned_versions
@pytest.mark.parametrize("words", ["ruff format --check .", "ruff check .", "mypy"])
def test_the_code_is_formatted_linted_and_strictly_typed(words):
    done = subprocess.run([sys.executable, "-m", *words.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_type_checker_is_to_pass_over_has_its_code_and_reason():
    for path in FILES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if "# type: ignore" in line:
                assert re.search(r"# type: ignore\[[a-z-]+(, [a-z-]+)*\]  # \w", line), (
                    f"{path}:{number}: {line.strip()}"
                )


SCRIPT = """
from pathlib import Path
from typing import Any, assert_type

import torch

import trainwright
from trainwright import (
    BaseTrainer, Seq2SeqTrainer, Seq2SeqTrainingArguments, Strategy, Trainer, TrainerCallback, TrainerControl,
    TrainerState, TrainingArguments, TrainOutput,
)
from trainwright.config import TrainingConfig, load
from trainwright.jobs import Store


class Halve(Trainer):
    def compute_loss(
        self, model: torch.nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: float | None = None
    ) -> Any:
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        return (loss / 2, outputs) if return_outputs else loss / 2


class Stop(TrainerCallback):
    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        control.should_training_stop = state.global_step > 3
        return control


args = TrainingArguments("out", max_steps=4, eval_strategy="steps")
line = torch.nn.Linear(1, 1)
trainer = trainwright.Trainer(line, args, train_dataset=[], tokenizer=None, callbacks=[Stop()], strategy=Strategy())
assert_type(trainer, Trainer)
assert_type(trainer.strategy, Strategy)
assert_type(args.max_steps, int)
assert_type(args.set_training(max_steps=4), TrainingArguments)
assert_type(trainer.train(resume_from_checkpoint=True), TrainOutput)
assert_type(trainer.evaluate(), dict[str, float])
assert_type(trainer.state.global_step, int)
assert_type(load(Path("run.yaml")).config, TrainingConfig)
assert_type(Store().find("job")["step"], int | None)
own: BaseTrainer = Halve(torch.nn.Linear(1, 1))
generating = Seq2SeqTrainer(args=Seq2SeqTrainingArguments("out", predict_with_generate=True))
trainwright.Trainr  # attr-defined
trainwright.BertConfig  # attr-defined
from trainwright import Trainr  # attr-defined
from trainwright.config import lod  # attr-defined
Trainer(1, 2, nonsense=3)  # arg-type arg-type call-arg
Seq2SeqTrainer(nonsense=3)  # call-arg
TrainingArguments("out", max_step=4)  # call-arg
trainer.trian()  # attr-defined
Store().find("job")["stp"]  # typeddict-item
"""


@pytest.mark.slow
@with_pinned_versions
def test_a_type_checker_knows_our_names_and_no_others(tmp_path):
    kinds = {name: getattr(trainwright, name) for name in trainwright._OURS}
    there = [f"trainwright.{name}.{one}" for name, kind in kinds.items() if isinstance(kind, type) for one in dir(kind)]
    script = tmp_path / "script.py"
    script.write_text("\n".join([SCRIPT, *(one for one in there if "._" not in one)]))
    words = [sys.executable, "-m", "mypy", str(script)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    found = {}
    for number, code in re.findall(r"^.*script\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.M):
        found.setdefault(int(number), []).append(code)
    lines = enumerate(SCRIPT.splitlines(), 1)
    wanted = {number: line.partition("  # ")[2].split() for number, line in lines if "  # " in line}
    assert {number: sorted(codes) for number, codes in found.items()} == wanted, done.stdout + done.stderr
