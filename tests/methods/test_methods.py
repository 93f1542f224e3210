"""A method is one file and one line: every command knows it, and nothing else had to change."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from tests import ROOT
from tests import tiny_language as tiny
from tests.methods.unlikelihood import Unlikelihood
from trainwright import ConfigError, DataError
from trainwright.cli.main import main
from trainwright.config.methods import METHODS, everyone, find
from trainwright.config.reading.read import load_checked
from trainwright.tasks.language.build import build
from trainwright.tasks.language.text import load_text

WHERE = "tests.methods.unlikelihood:Unlikelihood"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.make_place(tmp_path))
    monkeypatch.setitem(METHODS, "UNLIKELIHOOD", WHERE)
    rows = [
        {"prompt": row["prompt"].strip(), "completion": f" {row['completion']}", "label": number % 3 > 0}
        for number, row in enumerate(tiny.rows_of("completion", 6))
    ]
    tiny.write_rows(tmp_path / "judged.jsonl", rows)
    return tmp_path


@torch.no_grad()
def by_the_formula(rows, alpha):
    """The loss of all rows under the model before training, in float64, each row alone, and the share of bad tokens."""
    model = tiny.new_model().double().eval()
    tokenizer, total, bad, count = tiny.new_tokenizer(), 0.0, 0, 0
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = torch.tensor(tokenizer(row["prompt"] + row["completion"] + "<|end|>")["input_ids"])
        chances = model(ids[None]).logits[0, :-1].softmax(-1)[range(len(ids) - 1), ids[1:]][len(prompt) - 1 :]
        total += float(-chances.log().sum() if row["label"] else -alpha * (1 - chances).log().sum())
        count += len(chances)
        bad += 0 if row["label"] else len(chances)
    return total / count, bad / count


def test_a_method_of_ones_own_is_known_to_every_command(place, capsys):
    assert main(["init", "unlikelihood", "run.yaml"]) == 0
    assert main(["check", "run.yaml"]) == 0
    shown = capsys.readouterr()
    assert "run.yaml is valid: UNLIKELIHOOD, ./model, 1 step." in shown.out
    assert "nothing reads" not in shown.err
    assert main(["check", "run.yaml", "--memory"]) == 0
    assert "in all" in capsys.readouterr().out

    assert main(["data", "show", "run.yaml", "-n", "2"]) == 0
    shown = capsys.readouterr().out
    assert "UNLIKELIHOOD on prompt and completion." in shown
    assert "--- row 0, bad, " in shown
    assert "--- row 1, good, " in shown
    rows = [json.loads(line) for line in (place / "judged.jsonl").read_text().splitlines()]
    assert f"{rows[0]['prompt']}[[{rows[0]['completion']}<|end|>]]" in shown

    assert main(["train", "run.yaml", "training.output_dir=out", "training.save_strategy=no"]) == 0
    assert main(["compare", "run.yaml"]) == 2
    assert "UNLIKELIHOOD stands alone: no other engine here minimises the same" in capsys.readouterr().err


def test_its_loss_is_that_of_the_formula(place):
    from trainwright.config.composition import build_trainer

    (place / "run.yaml").write_text(find("UNLIKELIHOOD").example())
    trainer = build_trainer(load_checked(place / "run.yaml", ["training.output_dir=out"]).config)
    trainer.train()
    rows = [json.loads(line) for line in (place / "judged.jsonl").read_text().splitlines()]
    (entry,) = [one for one in trainer.state.log_history if "loss" in one]
    assert (entry["loss"], entry["bad"]) == pytest.approx(by_the_formula(rows, 0.5), rel=1e-5)  # float32 and float64


def test_it_reads_a_stream_of_one_dataset(place):
    from trainwright.config.composition import build_trainer

    (place / "run.yaml").write_text(find("UNLIKELIHOOD").example())
    streams = ["data.train.stream=true", "training.output_dir=streamed"]
    trainer = build_trainer(load_checked(place / "run.yaml", streams).config)
    trainer.train()
    rows = [json.loads(line) for line in (place / "judged.jsonl").read_text().splitlines()]
    (entry,) = [one for one in trainer.state.log_history if "loss" in one]
    assert (entry["loss"], entry["bad"]) == pytest.approx(by_the_formula(rows, 0.5), rel=1e-5)
    two = "data.train.datasets=[{dataset_name: ./judged.jsonl}, {dataset_name: ./judged.jsonl}]"
    with pytest.raises(ConfigError, match="UNLIKELIHOOD reads no several datasets as one stream"):
        load_text(load_checked(place / "run.yaml", [*streams, two]).config)


def test_it_may_take_a_key_that_others_refuse(place, monkeypatch):
    class Rewarded(Unlikelihood):
        takes = ("training.reward_functions",)

    (place / "run.yaml").write_text(find("UNLIKELIHOOD").example())
    given = ["training.reward_functions=[mine]"]
    with pytest.raises(ConfigError, match="training.reward_functions: it is of trainer_type TRL_GRPO"):
        load_checked(place / "run.yaml", given)
    monkeypatch.setitem(METHODS, "REWARDED", Rewarded)
    config = load_checked(place / "run.yaml", [*given, "training.trainer_type=rewarded"]).config
    assert config.training.reward_functions == ["mine"]


MISTAKES = {
    "training.trainer_kwargs.alpha=-1": "alpha -1.0 is negative",
    "training.trainer_kwargs.alhpa=1": "unknown key training.trainer_kwargs.alhpa (Did you mean 'alpha'?)",
    "training.trainer_kwargs.beta=1": "training.trainer_kwargs.beta: it is a setting of preference optimisation",
    "training.trainer_kwargs.packing=true": "it is a setting of supervised fine-tuning",
    "training.trainer_kwargs.max_length=1": "max_length 1 leaves no token to predict",
    "data.train.pack=true": "data.train.pack: its rows are not packed",
    "training.label_smoothing_factor=0.1": "it smooths the labels of supervised fine-tuning",
    "training.trainer_type=UNLIKELYHOOD": "Did you mean 'UNLIKELIHOOD'?",
    "training.trainer_type=SFT": "training.trainer_kwargs.alpha: it is a setting of unlikelihood training",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_what_cannot_work_with_it_is_said_before_anything_is_loaded(place, override):
    (place / "run.yaml").write_text(find("UNLIKELIHOOD").example())
    with pytest.raises(ConfigError) as error:
        load_checked(place / "run.yaml", [override])
    assert MISTAKES[override] in str(error.value)


def test_rows_that_it_cannot_learn_from_are_named(place):
    (place / "run.yaml").write_text(find("UNLIKELIHOOD").example())
    tiny.write_rows(place / "judged.jsonl", tiny.rows_of("completion", 3))
    with pytest.raises(DataError, match="There is no column 'label' beside prompt, completion"):
        load_text(load_checked(place / "run.yaml").config)
    tiny.write_rows(place / "judged.jsonl", [{**row, "label": 3} for row in tiny.rows_of("completion", 3)])
    with pytest.raises(DataError, match="Row 0: 'label' is 3; true or false is expected"):
        load_text(load_checked(place / "run.yaml").config)


def test_engines_that_minimise_different_things_are_not_compared(place, capsys):
    content = tiny.settings(place, "completion", trainer_type="SFT")
    tiny.write_yaml(place / "run.yaml", content)
    for engines, said in (
        ("SFT,UNLIKELIHOOD", "supervised fine-tuning and unlikelihood training minimise different things"),
        ("SFT,DPO", "supervised fine-tuning and preference optimisation minimise different things"),
    ):
        assert main(["compare", "run.yaml", "--engines", engines]) == 2
        assert said in capsys.readouterr().err


class Forgets(Unlikelihood):
    def objective(self, model, args, text):
        """The `return` is missing."""
        super().objective(model, args, text)


def test_a_method_that_gives_no_objective_does_not_train_the_models_own(place, monkeypatch):
    monkeypatch.setitem(METHODS, "UNLIKELIHOOD", Forgets)
    (place / "run.yaml").write_text(find("UNLIKELIHOOD").example())
    with pytest.raises(ConfigError, match="Forgets.objective returned None; it must return an Objective"):
        build(load_checked(place / "run.yaml").config)


@pytest.mark.parametrize(
    ("name", "where", "words"),
    [
        ("OWN", "nowhere.module:Own", "cannot be imported as module:class: No module named 'nowhere'"),
        ("OWN", "tests.methods.unlikelihood:Nope", "cannot be imported as module:class: .*no attribute 'Nope'"),
        ("OWN", "tests.methods.unlikelihood", "cannot be imported as module:class"),
        ("OWN", None, "is None; a class derived from Method is expected"),
        ("OWN", Unlikelihood("OWN"), "a class derived from Method is expected"),
        ("OWN", dict, "a class derived from Method is expected"),
        ("own", Unlikelihood, "names of methods are written in capitals: 'OWN'"),
    ],
)
def test_a_line_of_the_table_that_is_none_is_told(monkeypatch, name, where, words):
    monkeypatch.setitem(METHODS, name, where)
    with pytest.raises(ConfigError, match=words):
        find(name)


@pytest.mark.slow
def test_every_command_knows_the_methods_of_installed_packages(tmp_path):
    about = tmp_path / "unlikely-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: unlikely\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[trainwright.methods]\nUNLIKELIHOOD = {WHERE}\nSFT = nowhere:Own\n")
    command = [sys.executable, "-m", "trainwright", "init", "unlikelihood", str(tmp_path / "run.yaml")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "trainer_type: UNLIKELIHOOD" in (tmp_path / "run.yaml").read_text()
    command[3:] = ["init", "sft", str(tmp_path / "sft.yaml")]
    assert subprocess.run(command, env=environment).returncode == 0  # a name of ours stays ours


def test_our_methods_are_described_without_torch():
    """So `check` answers at once."""
    code = "import sys; from trainwright.config.methods import everyone; everyone(); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"'torch'", "'transformers'", "'numpy'", "'datasets'"} & set(done.stdout.strip("[]\n").split(", "))


def test_every_method_says_what_it_is():
    for one in everyone():
        assert one.title, one.name
        assert bool(one.package) == bool(one.library), one.name
        assert one.accepts, one.name
        assert one.learns_from, one.name
        assert one.library or one.example(), one.name


def test_rules_of_ones_own_write_encode():
    from trainwright.data.text.tokenize import TextRules

    with pytest.raises(ConfigError, match="Mine.row would not be called: rows are tokenised together. Write encode"):
        type("Mine", (TextRules,), {"row": lambda self, given, number: {}})
