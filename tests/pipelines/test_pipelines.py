"""Data of every form, preprocessors that a resumed run knows, the cache of tokens, and the command line."""

from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest
import sympy
import yaml

from tests.tasks.algebra import task
from trainwright import ConfigError, DataError
from trainwright.cli.main import main
from trainwright.pipelines import DatasetPipeline, IOPipeline, ModelPipeline, TrainerPipeline
from trainwright.tasks.algebra import data, inspect, problems
from trainwright.tasks.algebra.lexer import read_lexer
from trainwright.tasks.algebra.preprocess import Chain, ExpandedForm, LastElement, ReversedOrder, described
from trainwright.tasks.algebra.preprocess import read_preprocessor as read

FORMS = {
    "reversed_order": ("a # 1 | 2 | 3", "a # 3 | 2 | 1"),
    "last_element": ("a # 1 | 2 | 3", "a # 3"),
    "expanded_form": ("3*x^2 - x # 6*x - 1", "C3 E2 + C-1 E1 # C6 E1 + C-1 E0"),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def halves(pair):
    """The problem's first half; a user's own function."""
    return pair[0].split(" | ")[0], pair[1].split(" | ")[0]


@pytest.mark.parametrize("name", FORMS)
def test_preprocessors(name):
    given, wanted = (tuple(text.split(" # ")) for text in FORMS[name])
    assert read(name, "key")(given) == wanted
    again = read(json.loads(json.dumps(described(read(name, "key")))), "key")
    assert again(given) == wanted


def test_preprocessors_with_options_in_a_chain_and_of_the_user():
    two = ExpandedForm(("x", "y"), ";")
    assert two(("2/3*x*y^2; -y", "7")) == ("C2/3 E1 E2 ; C-1 E0 E1", "C7 E0 E0")
    chain = Chain(ReversedOrder(), LastElement())
    assert chain(("p", "1 | 2 | 3")) == ("p", "1")
    assert read(described(chain), "key")(("p", "1 | 2 | 3")) == ("p", "1")
    assert described(halves) == "tests.pipelines.test_pipelines:halves"
    assert read(described(halves), "key") is halves
    assert read(described(two), "key") == two
    with pytest.raises(DataError, match=r"'x\*z' is no expanded polynomial in x: 'z' is neither a number"):
        read("expanded_form", "key")(("x*z", "1"))
    with pytest.raises(ConfigError, match="key 'no.such:thing' cannot be imported"):
        read("no.such:thing", "key")
    with pytest.raises(ConfigError, match="last_element has the options delimiter, not variables"):
        read({"name": "last_element", "variables": ["x"]}, "key")


@pytest.mark.slow
def test_a_resumed_run_knows_the_users_function(place):
    config = task.write(place)
    io_pipeline = IOPipeline.from_config(config["data"])
    io_pipeline.dataset_load_preprocessor = halves
    io_dict = io_pipeline.build()
    assert set(io_dict["train_dataset"].lengths) == {6}  # <s> a </s>, twice
    model = ModelPipeline.from_io_dict(config["model"], io_dict).build()
    TrainerPipeline.from_io_dict({**config["train"], "max_steps": 2}, model, io_dict).build().train()
    again = TrainerPipeline.resume_from_checkpoint("results/my_experiment")
    assert set(again.train_dataset.lengths) == {6}
    fresh = TrainerPipeline.resume_from_checkpoint("results/my_experiment", resume_from_checkpoint="weights")
    assert not fresh.resumes
    for (name, one), other in zip(model.state_dict().items(), fresh.model.state_dict().values(), strict=True):
        assert one.equal(other), name


def test_ready_tokens_are_taken_as_they_are(place):
    config = task.write(place)
    texts = IOPipeline.from_config(config["data"]).build()
    for split in ("train", "test"):
        rows = texts[f"{split}_dataset"]
        lines = [{name: ids.tolist() for name, ids in rows[number].items()} for number in range(len(rows))]
        (place / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    section = {"lexer_config": "configs/lexer.yaml", "use_jsonl": True, "train_dataset_jsonl": "train.jsonl",
               "test_dataset_jsonl": "test.jsonl"}  # fmt: skip
    ready = IOPipeline.from_config(section).build()
    assert ready["train_dataset"].key == texts["train_dataset"].key
    (place / "test.jsonl").write_text('{"input_ids": [1, 99], "target_ids": [3]}\n')
    with pytest.raises(DataError, match="Row 0 of the test data: holds the token 99; the lexer's vocabulary has"):
        IOPipeline.from_config(section).build()
    (place / "test.jsonl").write_text('{"input_ids": [1]}\n')
    with pytest.raises(DataError, match=r"test.jsonl:1: no JSON with 'problem' and 'answer', or 'input_ids'"):
        IOPipeline.from_config(section).build()


def test_tokens_are_made_once(place, monkeypatch, capsys):
    config = task.write(place)["data"]
    first = IOPipeline.from_config(config).build()["train_dataset"]
    assert isinstance(first.values.base, np.memmap)
    made = []
    monkeypatch.setattr(data, "tokens_of", lambda *given: made.append(given) or pytest.fail("tokenised again"))
    assert IOPipeline.from_config(config).build()["train_dataset"].key == first.key
    monkeypatch.undo()
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    fewer = IOPipeline.from_config({**config, "num_train_samples": 7}).build()["train_dataset"]
    assert len(fewer) == 7
    capsys.readouterr()
    IOPipeline.from_config({**config, "num_train_samples": 70_000}).build()
    assert f"is 70000, but '{config['train_dataset_path']}' holds {len(first)} problems" in capsys.readouterr().out
    reverse = IOPipeline.from_config({**config, "dataset_load_preprocessor": "reversed_order"}).build()
    assert reverse["train_dataset"].key != first.key


def test_shared_problems_are_told(place, capsys):
    config = task.write(place)
    some = (place / "data" / "train_raw.txt").read_text().splitlines()[:7]
    (place / "data" / "test_raw.txt").write_text("\n".join(some))
    io_dict = IOPipeline.from_config({**config["data"], "display_samples": 1}).build()
    assert len(io_dict["test_dataset"]) == 7
    out = capsys.readouterr().out
    assert "Note: 7 of 7 test problems are in the training data too." in out
    assert " ".join(task.problems(1, 1)[0]).replace(" ", "") in out.replace("#", "").replace(" ", "")


def test_answers_of_unknown_tokens_are_told(place, capsys):
    (place / "a.txt").write_text("q # 1\nx # q + q\n1 # 2\nx # q\n")
    section = {"lexer_config": {"vocab": {"misc": ["x"], "range": {"n": ["", 0, 9]}}, "strict": False},
               "train_dataset_path": "a.txt", "test_dataset_path": "a.txt"}  # fmt: skip
    IOPipeline.from_config(section).build()
    assert "Note: 2 of 4 test answers hold <unk>, so they count as wrong." in capsys.readouterr().out


def square(seed):
    """A generator of the user's own."""
    return [seed % 100003, seed % 7], seed % 11


def test_a_users_generator(place):
    section = {"save_dir": "made", "num_train_samples": 60, "num_test_samples": 10, "root_seed": 3, "save_json": True}
    DatasetPipeline.from_config({**section, "n_jobs": 2}, square).run()
    rows = [json.loads(line) for line in (place / "made" / "train_data.jsonl").read_text().splitlines()]
    assert len(rows) == 60
    lines = (place / "made" / "train_raw.txt").read_text().splitlines()
    assert lines[0] == f"{rows[0]['problem'][0]} | {rows[0]['problem'][1]} # {rows[0]['answer']}"
    with pytest.raises(ConfigError, match="either `task`, the name of one, or a generator function"):
        DatasetPipeline.from_config(section)
    assert DatasetPipeline.from_config({**section, "backend": "sagemath"}, square).make is square
    with pytest.raises(ConfigError, match="backend 'sagemath' is for a generator function of your own"):
        DatasetPipeline.from_config({**section, "backend": "sagemath", "task": "parity"})
    with pytest.raises(ConfigError, match="backend 'sage' is not known; known: sympy, sagemath"):
        DatasetPipeline.from_config({**section, "backend": "sage"}, square)


@pytest.mark.slow
def test_a_file_trains_resumes_and_is_looked_at(place, capsys):
    config = task.write(place)
    config["dataset"] = {"task": "gf17_sum", "save_dir": "made", "num_train_samples": 60, "num_test_samples": 12}
    names = {"lexer_config": "lexer.yaml", "train_dataset_path": "train_raw.txt", "test_dataset_path": "test_raw.txt"}
    config["data"] |= {"task": "gf17_sum", **{key: f"made/{name}" for key, name in names.items()}}
    (place / "run.yaml").write_text(yaml.safe_dump(config))
    assert main(["algebra", "train", "run.yaml", "train.max_steps=3", "train.eval_strategy=no"]) == 0
    assert main(["algebra", "train", "run.yaml"]) == 2
    assert "holds another run. --resume goes on with it" in capsys.readouterr().err
    assert main(["algebra", "train", "run.yaml", "--resume"]) == 0
    assert main(["algebra", "eval", "results/my_experiment", "--plot"]) == 0
    assert "of 12 answers are right" in capsys.readouterr().out
    assert (place / "results" / "my_experiment" / "success.png").stat().st_size > 1000
    assert main(["algebra", "train", "run.yaml", "train.max_steps"]) == 2
    assert main(["algebra", "train", "no.yaml"]) == 2
    assert "There is no configuration 'no.yaml'" in capsys.readouterr().err


def test_answers_are_told_in_words():
    rows = [
        {"input": "- 3 * x ^ 2 + x", "reference": "- 6 * x + 1", "generated": "- 6 * x + 1", "correct": True},
        {"input": "x ^ 2", "reference": "2 * x", "generated": "x + x", "correct": False, "algebraically_correct": True},
        {"input": "x", "reference": "1", "generated": "", "correct": False, "algebraically_correct": False},
    ]
    assert inspect.aloud(rows).splitlines() == [
        "  -3*x^2 + x", "    → -6*x + 1    right",
        "  x^2", "    → x + x    right, though written otherwise than 2*x",
        "  x", "    → (nothing)    wrong; right is 1",
    ]  # fmt: skip
    assert len(inspect.aloud(rows, 1).splitlines()) == 2


def test_longer_problems_are_longer_and_of_the_same_tokens():
    task = problems.task_named("derivative")
    lexer, usual, longer = read_lexer(task.lexer, "lexer"), Random(0), Random(0)
    most = max(len(lexer.tokenize(task.make(usual)[0])) for _ in range(2000))
    for _ in range(20):
        problem, answer = task.longer(longer)
        assert len(lexer.tokenize(problem)) > most
        lexer.tokenize(answer)
        asked, told = (sympy.sympify(one.replace("^", "**")) for one in (problem, answer))
        assert sympy.expand(sympy.diff(asked) - told) == 0


@pytest.mark.slow
def test_the_demo_and_the_file_to_start_from(place, capsys):
    few = ["train.max_steps=3", "dataset.num_train_samples=200", "dataset.num_test_samples=20", "train.eval_steps=3"]
    assert main(["demo", "algebra", *few]) == 0
    out = capsys.readouterr().out
    assert "of 20 answers are right" in out
    ten = out.partition("Ten problems that it had never seen")[2].partition("such problems are right")[0]
    assert ten.count("    → ") == 10
    rows = json.loads((place / "runs" / "demo-algebra" / "eval_results" / "step_3.json").read_text())
    assert f"  {inspect.compact(rows[9]['input'])}\n" in ten
    assert "Of problems longer than any that it was trained on, 0 of 200 are" in out
    assert main(["demo", "algebra", *few]) == 0
    assert "This run is complete: 3 steps, in runs/demo-algebra/." in capsys.readouterr().out
    assert main(["init", "algebra", "mine.yaml"]) == 0
    assert main(["algebra", "train", "mine.yaml", "train.save_dir=runs/mine"]) == 2  # of 100,000 problems
    assert "holds other problems: num_train_samples 200, not 100000" in capsys.readouterr().err
    assert main(["algebra", "train", "mine.yaml", "train.save_dir=runs/mine", "train.max_steps=2", *few[1:3]]) == 0


@pytest.mark.slow
def test_rows_are_evaluated_by_length_and_come_back_in_order(place):
    config = task.write(place)
    io_dict = IOPipeline.from_config(config["data"]).build()
    model = ModelPipeline.from_io_dict({**config["model"], "seed": 0}, io_dict).build()
    trainer = TrainerPipeline.from_io_dict(config["train"], model, io_dict).build().trainer
    rows = io_dict["test_dataset"]
    widths = [batch["input_ids"].shape[1] for batch in trainer.get_eval_dataloader()]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1]
    found = trainer.predict(rows)
    for number in range(len(rows)):
        labels = rows[number]["target_ids"][1:].tolist()
        assert found.label_ids[number][: len(labels)].tolist() == labels
    plain = trainer.predict([rows[number] for number in range(len(rows))])  # a list, which knows no lengths
    kept = found.label_ids != -100
    assert (found.predictions[kept] == plain.predictions[kept]).all()
    assert found.metrics["test_loss"] == pytest.approx(plain.metrics["test_loss"], abs=1e-6)
