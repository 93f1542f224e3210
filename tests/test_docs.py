"""Every snippet of the README and the docs runs."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys

import pytest
from torch.utils.data import DataLoader

from tests import ROOT, tiny, tiny_language
from tests.test_house import FILES, LAYERS, PACKAGE, with_pinned_versions
from trainwright import processes
from trainwright.config.methods import METHODS

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def snippets(language):
    return [
        (page.name, code)
        for page in PAGES
        for code in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.M | re.S)
    ]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.setattr(sys, "argv", sys.argv)  # a snippet sets it
    tiny.bert_classifier(num_labels=2).save_pretrained("my-model")
    tiny.tokenizer().save_pretrained("my-model")
    tiny_language.new_model().save_pretrained("my-language-model")
    tiny_language.new_tokenizer().save_pretrained("my-language-model")
    tiny_language.write_rows(tmp_path / "rows.jsonl", tiny_language.rows_of("text"))
    yield tmp_path
    processes.leave()


def test_python_snippets_run_one_after_another(place, monkeypatch):
    rows = [{**row, "label": row["label"] % 2} for row in tiny.sentences(16)]
    loader = DataLoader(tiny.line_rows(16), batch_size=8)
    monkeypatch.setattr("trainwright.config.methods.METHODS", dict(METHODS))
    names = {"train": rows, "test": rows[:4], "policy": tiny.new_line(), "loader": loader}
    for page, code in snippets("python"):
        exec(compile(code, page, "exec"), names)
    assert names["trainer"].state.epoch >= 1
    assert len((place / "numbers.csv").read_text().splitlines()) > 4 * 3
    assert len(snippets("python")) >= 3


def test_commands_exist():
    from trainwright.cli.main import COMMANDS

    makefile = (ROOT / "Makefile").read_text()
    lines = [line for _, code in snippets("bash") for line in code.splitlines() if line.strip()]
    for line in lines:
        words = line.split()
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, flags=re.M), line
        elif words[0] == "trainwright":
            assert words[1] in COMMANDS, line
        elif words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).exists(), line
        elif words[:2] == ["python", "-m"]:
            assert (ROOT / (words[2].replace(".", "/") + ".py")).exists() or (ROOT / words[2]).is_dir(), line
        else:
            assert words[0] in ("torchrun", "pip"), line


def test_options_exist(capsys):
    """What a page says to type, in blocks and within its text: commands and options are in the command's own help."""
    from trainwright.cli.main import COMMANDS, main

    said = {line for _, code in snippets("bash") for line in code.splitlines()}
    said |= {code for page in PAGES for code in re.findall(r"`(trainwright [^`]+)`", page.read_text())}
    commands = [re.sub(r"\s+#.*", "", line).split()[1:] for line in said if line.startswith("trainwright ")]
    assert len(commands) > 40
    for words in commands:
        if words[0].startswith("-"):
            continue  # of the program itself
        assert words[0] in COMMANDS, words
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        if not options:
            continue
        action = words[1:2] if words[0] in ("jobs", "alerts", "algebra", "imitation", "examples", "rl") else []
        with pytest.raises(SystemExit):
            main([words[0], *action, "--help"])
        shown = capsys.readouterr().out
        assert all(option in shown for option in options), words


def test_every_door_of_the_readme_is_short():
    readme = (ROOT / "README.md").read_text()
    for code in re.findall(r"^```\w+\n(.*?)^```", readme, flags=re.M | re.S):
        assert code.count("\n") <= 10, code


def test_links_and_pictures_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_reference_has_every_public_name():
    import trainwright

    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    here = set(re.findall(r"^::: (.+)$", pages, flags=re.M))
    public = {f"trainwright.{name}" for name in trainwright._OURS}
    public |= {
        f"trainwright.{package}.{name}"
        for package in ("config", "jobs", "parts", "pipelines")
        for name in names_of(package)
    }
    assert here == public


def names_of(package):
    return importlib.import_module(f"trainwright.{package}").__all__


@pytest.mark.slow  # `make check` does it itself
@with_pinned_versions
def test_the_pages_are_a_site_without_a_warning(tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    (tmp_path / "src").symlink_to(ROOT / "src")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "create_optimizer" in (tmp_path / "site" / "api" / "trainer" / "index.html").read_text()


def test_the_map_of_the_house_has_every_package_and_the_order_of_the_layers():
    text = (ROOT / "docs" / "architecture.md").read_text()
    tree, order = re.findall(r"^```text\n(.*?)^```", text, flags=re.M | re.S)
    for folder in {path.parent.name for path in FILES} - {PACKAGE.name}:
        assert re.search(rf"\b{folder}/", tree), folder
    assert order.splitlines() == [", ".join(line) for line in LAYERS]


def test_the_map_of_the_house_names_what_is_there():
    text = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "src" / "trainwright"
    for folder in re.findall(r"^  (\w+)/ ", text, flags=re.M):
        assert (package / folder).is_dir(), folder
    for file in re.findall(r"`(\w+/[\w/]+\.py)\b", text):
        assert (package / file).exists() or (ROOT / file).exists() or (package.parent / file).exists(), file
    for file, name in re.findall(r"`([\w/]+\.py): (?:\w+\.)?(\w+)", text):
        assert f"def {name}" in (package / file).read_text() or f"class {name}" in (package / file).read_text(), file
