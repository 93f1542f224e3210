"""What a newcomer opens first: imports, the command line's ways in, the examples, and what is shipped."""

from __future__ import annotations

import ast
import importlib.util
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import transformers

import trainwright
from tests import ROOT, tiny_language
from trainwright.cli.main import GROUPS, main
from trainwright.config.reading.read import load_checked
from trainwright.errors import ConfigError
from trainwright.jobs import paths
from trainwright.jobs.store.store import Store
from trainwright.jobs.worker import queue
from trainwright.upstream import script

PACKAGES = [
    ".".join(path.relative_to(ROOT / "src").parent.parts)
    for path in sorted((ROOT / "src").rglob("__init__.py"))
    if "__all__" in path.read_text()
]


def test_every_name_of_transformers_comes_through_and_ours_go_before():
    from trainwright import (
        BertConfig,
        BitsAndBytesConfig,
        DefaultDataCollator,
        LlamaForCausalLM,
        SchedulerType,
        logging,
    )
    from trainwright import pipeline as theirs

    assert BertConfig is transformers.BertConfig
    assert LlamaForCausalLM is transformers.LlamaForCausalLM
    assert BitsAndBytesConfig is transformers.BitsAndBytesConfig
    assert SchedulerType is transformers.SchedulerType
    assert DefaultDataCollator is transformers.DefaultDataCollator
    assert logging is transformers.logging
    assert theirs is transformers.pipeline
    for name in ("Trainer", "TrainingArguments", "Seq2SeqTrainer", "set_seed", "IntervalStrategy"):
        assert getattr(trainwright, name).__module__.startswith("trainwright.")
    ours = {module.name for module in pkgutil.iter_modules(trainwright.__path__)}
    both = ours & set(dir(transformers))
    assert {"data", "models", "pipelines"} <= both
    for name in both:
        assert getattr(trainwright, name).__name__ == f"trainwright.{name}"
    assert ours - {"__main__"} <= set(dir(trainwright))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_type_checker_sees_the_names_of_ours_that_can_be_imported(package):
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {}
    for node in block.body:
        if isinstance(node, ast.Assign):
            seen[node.targets[0].id] = seen[node.value.id]
            continue
        for alias in node.names:
            assert alias.asname == alias.name  # or it would be imported for the package itself
            seen[alias.name] = getattr(importlib.import_module(node.module), alias.name)
    theirs = {"__version__", *getattr(module, "_TRANSFORMERS", ())}
    assert seen == {name: getattr(module, name) for name in module.__all__ if name not in theirs}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_of_a_package_is_that_of_a_module_in_it(package):
    """Python makes a module an attribute of its package once it is imported, in place of what had its name."""
    module = importlib.import_module(package)
    assert not {one.name for one in pkgutil.iter_modules(module.__path__)} & set(module.__all__)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Trainr", "Trainer"),
        ("BertConfg", "BertConfig"),
        ("pipelin", "pipeline"),
        ("training_args", "TrainingArguments"),
    ],
)
def test_a_name_that_nobody_has_is_told_with_the_nearest(name, meant):
    """`transformers.training_args` is there, but speaks of the other Trainer."""
    with pytest.raises(AttributeError) as caught:
        getattr(trainwright, name)
    assert str(caught.value) == f"module 'trainwright' has no attribute '{name}'. Did you mean '{meant}'?"


@pytest.mark.slow
def test_transformers_is_not_imported_before_one_of_its_names_is_asked_for():
    """And Python adds no second suggestion where the error ends the process."""
    code = (
        "import sys, trainwright\nfrom trainwright import data, errors, jobs\n"
        "dir(trainwright), hasattr(trainwright, '__wrapped__'), hasattr(trainwright, '_private')\n"
        "print('transformers' in sys.modules)\ntrainwright.BertConfig\nprint('transformers' in sys.modules)\n"
        "trainwright.Trainr"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stdout.split() == ["False", "True"]
    assert done.stderr.count("Did you mean") == 1


def test_python_m_trainwright_is_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "trainwright", "--version"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"trainwright {trainwright.__version__}\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a model, rows and a file of a run, as the current directory."""
    monkeypatch.chdir(tmp_path)
    tiny_language.new_model().save_pretrained("model")
    tiny_language.new_tokenizer().save_pretrained("model")
    tiny_language.write_rows(tmp_path / "rows.jsonl", tiny_language.rows_of("text"))
    run = {
        "model": {"model_name": "./model"},
        "data": {"train": {"datasets": [{"dataset_name": "./rows.jsonl"}]}},
        "training": {"trainer_type": "SFT", "max_steps": 2, "logging_steps": 1, "use_cpu": True},
    }
    (tmp_path / "b.yaml").write_text(json.dumps(run))
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        "b.yaml training.max_steps=1",
        "training.max_steps=1 b.yaml",
        "--training.max_steps 1 b.yaml",
        "b.yaml --training.max_steps=1",
        "-c b.yaml --training.max_steps 1",
    ],
)
def test_a_file_needs_no_option(place, capsys, words):
    assert main(["check", *words.split()]) == 0
    assert "b.yaml is valid: SFT, ./model, 1 step." in capsys.readouterr().out


@pytest.mark.slow
def test_train_and_its_neighbours_take_the_file_as_it_is(place, capsys):
    assert main(["data", "show", "b.yaml", "-n", "1"]) == 0
    assert main(["train", "b.yaml"]) == 0
    assert (place / "runs" / "b-1" / "checkpoint-2").is_dir()
    assert main(["train", "--resume", "b.yaml", "training.max_steps=3"]) == 0
    assert (place / "runs" / "b-1" / "checkpoint-3").is_dir()
    assert main(["train", "b.yaml", "--resume", "runs/b-1", "training.max_steps=4"]) == 0
    assert (place / "runs" / "b-1" / "checkpoint-4").is_dir()
    capsys.readouterr()
    for words, said in (
        ("check", "trainwright check: Give the run's YAML file: trainwright check FILE."),
        ("train", "trainwright train: Give FILE to train what a file describes, or --resume FOLDER"),
        ("train none.yaml", "There is no file 'none.yaml'"),
        ("train --resume none.yaml", "There is no file 'none.yaml'"),
        ("train b.yaml c.yaml", "'c.yaml' is no override"),
    ):
        assert main(words.split()) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("begun", "told"), [([], "train what a YAML file describes"), *(([group], "-h, --help") for group in GROUPS)]
)
def test_a_command_that_needs_another_one_lists_those_there_are(capsys, begun, told):
    assert main(begun) == 2
    said = capsys.readouterr()
    assert told in said.out
    assert "required" not in said.err


def test_a_misspelt_command_is_answered_with_a_suggestion(capsys):
    with pytest.raises(SystemExit) as left:
        main(["chekc", "run.yaml"])
    assert left.value.code == 2
    assert "there is no command 'chekc'. Did you mean 'check'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("begun", "expected"),
    [
        ("train r.yaml --resume", "train r.yaml"),
        ("train --resume r.yaml training.seed=1", "train r.yaml training.seed=1"),
        ("train r.yaml --resume runs/a", "train r.yaml"),
        ("train --resume runs/a", "train -c runs/a/run.yaml"),
    ],
)
def test_a_job_begun_without_options_is_begun_again(monkeypatch, tmp_path, begun, expected):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path))
    store = Store()
    command = ["python", "-m", "trainwright", *begun.split()]
    store.submit("old", name="a", experiment="e", command=command, params={})
    new = queue.again(store, store.find("old"), {})
    folder = paths.job_folder(new) / "output"
    assert store.find(new)["command"] == [*command[:3], *expected.split(), f"training.output_dir={folder}"]


@pytest.mark.slow
def test_the_same_script_with_its_import_changed_beside_transformers():
    """What `demo --against transformers` prints, of four steps: the same rows and losses."""
    results = script.compare(steps=4, rounds=1)
    (ours,), (theirs,) = results["trainwright"], results["transformers"]
    assert ours.tokens == theirs.tokens
    assert len(ours.losses) == 4
    apart = max(abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True))
    assert apart < 1e-5  # float32
    last = script.table(results).splitlines()[-1]
    assert last == (
        f"{ours.speed / theirs.speed:.2f} times as fast, in {ours.memory / theirs.memory:.2f} of the memory; "
        f"the losses of 4 steps differ by {apart:.1e} at most."
    )


@pytest.mark.parametrize("kind", ["sft", "dpo", "pretrain", "algebra", "imitation"])
def test_init_writes_no_path_of_this_machine(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    assert main(["init", kind, "new/mine.yaml"]) == 0
    text = (tmp_path / "new" / "mine.yaml").read_text()
    assert not re.search(r"(^|[\s=:\"'])[/~]\w", text), text
    schema = re.search(r"^# yaml-language-server: \$schema=(.*)$", text, flags=re.M)
    if schema:
        assert "training" in json.loads((tmp_path / "new" / schema[1]).read_text())["properties"]


def test_a_missing_extra_is_one_line_with_its_command(place, monkeypatch):
    found = importlib.util.find_spec
    gone = ("datasets", "accelerate")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in gone else found(name, *rest))
    with pytest.raises(ConfigError) as caught:
        load_checked(Path("b.yaml"))
    assert "the package 'datasets', which is not installed" in str(caught.value)
    assert "pip install 'trainwright[llm]'" in str(caught.value)
    with pytest.raises(ConfigError, match="trainer_type HF needs the package 'accelerate', which is not installed"):
        load_checked(Path("b.yaml"), ["training.trainer_type=HF"])
    recipe = Path(trainwright.__file__).parent / "recipes" / "demo.yaml"
    load_checked(recipe)  # its model brings its own data


def test_examples_are_listed_and_copied(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["examples", "list"]) == 0
    listed = capsys.readouterr().out
    here = {str(path.relative_to(ROOT / "examples")): path for path in (ROOT / "examples").rglob("*.*")}
    here = {name: path for name, path in here.items() if path.suffix in (".py", ".yaml")}
    for name in here:
        assert re.search(rf"^{name} +\S+ \S+", listed, flags=re.M), name
    assert max(map(len, listed.splitlines())) < 160
    assert main(["examples", "copy", "1_sft", "imitation/own_policy.py"]) == 0
    assert capsys.readouterr().out.split() == ["examples/1_sft.yaml", "examples/imitation/own_policy.py"]
    assert main(["examples", "copy", "all"]) == 2
    assert "'examples/1_sft.yaml' exists" in capsys.readouterr().err
    assert main(["examples", "copy", "all", "--to", "there"]) == 0
    assert {str(path.relative_to("there")) for path in Path("there").rglob("*.*")} == here.keys()
    assert all((Path("there") / name).read_bytes() == path.read_bytes() for name, path in here.items())
    assert main(["examples", "copy", "own_polcy"]) == 2
    assert "There is no example 'own_polcy'. Did you mean 'own_policy'?" in capsys.readouterr().err


def test_the_changelog_has_the_usual_form():
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    heads = [line for line in lines if line.startswith("#")]
    assert heads[:2] == ["# Changelog", "## [Unreleased]"]
    kinds = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
    for head in heads[2:]:
        assert re.fullmatch(rf"### ({'|'.join(kinds)})|## \[\d+\.\d+\.\d+\] - \d{{4}}-\d\d-\d\d", head), head


def test_the_packages_description_shows_nothing_that_is_not_there():
    """Pictures and files of the repository cannot be shown or followed from a package index."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    readme = project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = "".join((ROOT / one["path"]).read_text() for one in readme["fragments"])
    assert "![" in text
    for one in readme["substitutions"]:
        text = re.sub(one["pattern"], one["replacement"], text)
    assert "![" not in text
    assert all(target.startswith("http") for target in re.findall(r"\]\(([^)]+)\)", text))
    assert "docs/reliability.md" in text
    assert "version" not in project["project"]  # it stands in trainwright/__init__.py alone
