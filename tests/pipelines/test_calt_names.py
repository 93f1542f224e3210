"""What scripts written for CALT use besides its three pipelines: names, attributes, preprocessors of rows, pickles."""

from __future__ import annotations

import json
import pickle
import statistics
from fractions import Fraction

import pytest
import sympy
import torch
import yaml
from omegaconf import OmegaConf

from tests.tasks.algebra import task
from trainwright import ConfigError, DataError, TrainingArguments
from trainwright.cli.main import main
from trainwright.pipelines import (
    ChainLoadPreprocessor,
    DatasetPipeline,
    ExpandedFormLoadPreprocessor,
    IOPipeline,
    JsonlDefaultLoadPreprocessor,
    LastElementLoadPreprocessor,
    ModelPipeline,
    ReversedOrderLoadPreprocessor,
    TextToSageLoadPreprocessor,
    Trainer,
    TrainerPipeline,
    UserCallableLoadPreprocessor,
    apply_dryrun_settings,
    register_input_embedding,
)
from trainwright.pipelines.io import load_lexer
from trainwright.tasks.algebra.lexer import NumberPolicy, read_lexer
from trainwright.tasks.algebra.preprocess import applied, described, read_preprocessor

RING = sympy.ring("x,y", sympy.QQ)[0]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def polynomial(text):
    return RING.from_expr(sympy.sympify(text.replace("^", "**")))


def first_only(problem, answer):
    return problem, answer.split(",")[0]


class Doubled:
    """A preprocessor of the user's, with a setting."""

    def __init__(self, times=2):
        self.times = times

    def process_sample(self, source):
        problem, answer = source.split("#")
        return " | ".join([problem.strip()] * self.times), answer.strip()


ROWS = [  # as CALT's classes of these names were seen to do
    (ReversedOrderLoadPreprocessor(), "11,4,11 # 11,15,9", ("11,4,11", "9,15,11")),
    (ReversedOrderLoadPreprocessor(), {"problem": [1, 2], "answer": [3, [4, 5]]}, ("1 2", "4 5,3")),
    (LastElementLoadPreprocessor(), "11,4,11 # 11,15,9", ("11,4,11", "9")),
    (LastElementLoadPreprocessor(delimiter="|"), {"problem": "p", "solution": "1 | 2"}, ("p", "2")),
    (JsonlDefaultLoadPreprocessor(), {"problem": [1, [2, 3]], "answer": 4}, ("1 2 3", "4")),
    (UserCallableLoadPreprocessor(first_only), "7 # 1,2", ("7", "1")),
    (
        ChainLoadPreprocessor(TextToSageLoadPreprocessor(ring=polynomial), ExpandedFormLoadPreprocessor()),
        "3*x^2 - y | 7 # x*y",
        ("C3 E2 E0 + C-1 E0 E1 || C7 E0 E0", "C1 E1 E1"),
    ),
    (Doubled(3), "1 # 2", ("1 | 1 | 1", "2")),
]


@pytest.mark.parametrize(("preprocessor", "source", "wanted"), ROWS)
def test_preprocessors_of_rows(preprocessor, source, wanted):
    assert preprocessor.process_sample(source) == wanted
    again = read_preprocessor(json.loads(json.dumps(described(preprocessor))), "key")
    assert applied(again, source) == wanted


def test_a_run_knows_a_preprocessor_of_rows_again(place):
    config = task.write(place)["data"]
    pipeline = IOPipeline.from_config(config)
    pipeline.dataset_load_preprocessor = Doubled()
    pipeline.num_train_samples = 5
    built = pipeline.build()
    assert (pipeline.num_train_samples, pipeline.num_test_samples, len(pipeline.train_dataset)) == (5, -1, 5)
    assert pipeline.tokenizer is built["tokenizer"]
    about = built["train_dataset"].description["config"]
    assert about["dataset_load_preprocessor"] == {"name": f"{__name__}:Doubled", "times": 2}
    again = IOPipeline.from_config(about).build()
    assert again["train_dataset"].key == built["train_dataset"].key
    with pytest.raises(AttributeError, match="no attribute 'tokenizer' yet; call build"):
        _ = IOPipeline.from_config(config).tokenizer
    with pytest.raises(ConfigError, match="num_test_samples is 'x', but a whole number"):
        pipeline.num_test_samples = "x"
    pipeline.dataset_load_preprocessor = UserCallableLoadPreprocessor(lambda problem, answer: problem)
    with pytest.raises(DataError, match="Row 0 of the training data: the preprocessor made '.*' of it; .input text"):
        pipeline.build()


def test_pickles_are_read_and_none_of_their_code_is_run(place):
    config = task.write(place)["data"]
    rows = task.problems(12, 1)
    for name, some in {"train": rows, "test": [{"problem": p, "solution": a} for p, a in rows[:4]]}.items():
        (place / f"{name}.pkl").write_bytes(pickle.dumps(some))
    section = {"lexer_config": config["lexer_config"], "use_pickle": True, "train_dataset_pickle": "train.pkl",
               "test_dataset_pickle": "test.pkl"}  # fmt: skip
    built = IOPipeline.from_config(section).build()
    assert [len(built[f"{name}_dataset"]) for name in ("train", "test")] == [12, 4]
    (place / "train.pkl").write_bytes(pickle.dumps([(Fraction(1, 2), 1)]))
    with pytest.raises(DataError, match=r"'train.pkl' cannot be read: it holds objects of fractions.Fraction, which"):
        IOPipeline.from_config(section).build()
    (place / "train.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(DataError, match=r"row 0 is '1'; a list of \(problem, answer\) is expected"):
        IOPipeline.from_config(section).build()
    (place / "train.pkl").write_bytes(b"no pickle")
    with pytest.raises(DataError, match="cannot be read"):
        IOPipeline.from_config(section).build()


def alone(place, **more):
    config = task.write(place)
    io_dict = IOPipeline.from_config(config["data"]).build()
    model = ModelPipeline.from_io_dict({**config["model"], "seed": 0}, io_dict).build()
    args = TrainingArguments("out", per_device_eval_batch_size=8, max_steps=2, use_cpu=True, report_to="none",
                             label_names=["labels"], remove_unused_columns=False)  # fmt: skip
    return Trainer(
        model=model, args=args, data_collator=io_dict["data_collator"], train_dataset=io_dict["train_dataset"],
        eval_dataset=io_dict["test_dataset"], processing_class=io_dict["tokenizer"], **more,
    )  # fmt: skip


def test_a_trainer_alone_counts_and_generates(place):
    trainer = alone(place)
    found = trainer.evaluate()
    assert {"eval_token_accuracy", "eval_success_rate", "eval_generation_success_rate"} <= found.keys()
    rows = json.loads((place / "out" / "eval_results" / "step_0.json").read_text())
    assert len(rows) == 20
    assert trainer.evaluate_and_save_generation(max_length=4) == found["eval_generation_success_rate"]
    own = alone(place, compute_metrics=lambda prediction: {"rows": len(prediction.label_ids)})
    assert own.evaluate()["eval_rows"] == 20


def test_a_pipeline_has_what_its_trainer_has(place):
    trainer = alone(place)
    pipeline = TrainerPipeline({}, model=trainer.model)
    with pytest.raises(AttributeError, match="no attribute 'state'; the trainer is not built yet"):
        _ = pipeline.state
    pipeline.trainer = trainer
    assert pipeline.state is trainer.state
    assert pipeline.evaluate(metric_key_prefix="test")["test_generation_step"] == 0


@pytest.mark.parametrize("kind", ["omegaconf", "plain"])
def test_a_dry_run_is_short_and_asks_for_no_key(place, kind):
    config = task.write(place)
    config["data"]["num_test_samples"] = 7
    cfg = OmegaConf.create(config) if kind == "omegaconf" else config
    apply_dryrun_settings(cfg)
    train = cfg["train"]
    assert (train["num_train_epochs"], train["batch_size"], train["test_batch_size"]) == (1, 8, 8)
    assert (train["eval_steps"], train["save_steps"], train["num_workers"]) == (10, 10, 0)
    assert (cfg["data"]["num_train_samples"], cfg["data"]["num_test_samples"]) == (1000, 7)
    assert dict(train["wandb"]) == {"project": "calt", "group": "dryrun-gf17", "name": "dryrun-mine", "no_wandb": True}


def halves(seed):
    return [2 * (seed % 5000), -(seed % 7)], f"{seed % 5000} + x1"


def measures(problem, answer):
    return {"problem": {"first": problem[0], "length": len(problem)}, "answer": len(answer)}


def test_problems_of_ones_own_have_a_lexer_and_statistics(place):
    section = {"save_dir": "made", "num_train_samples": 60, "num_test_samples": 8, "backend": "sagemath",
               "save_json": True, "n_jobs": 1}  # fmt: skip
    DatasetPipeline.from_config(section, instance_generator=halves, statistics_calculator=measures).run()
    rows = [json.loads(line) for line in (place / "made" / "train_data.jsonl").read_text().splitlines()]
    found = yaml.safe_load((place / "made" / "train_stats.yaml").read_text())
    first = [row["problem"][0] for row in rows]
    assert found["num_samples"] == 60
    assert found["problem_stats"]["first"] == {
        "mean": pytest.approx(statistics.fmean(first)), "std": pytest.approx(statistics.pstdev(first)),
        "min": min(first), "max": max(first),
    }  # fmt: skip
    assert found["answer_stats"]["max"] == max(len(row["answer"]) for row in rows)
    data = {"lexer_config": "made/lexer.yaml", "train_dataset_path": "made/train_raw.txt",
            "test_dataset_path": "made/test_raw.txt"}  # fmt: skip
    assert len(IOPipeline.from_config(data).build()["train_dataset"]) == 60
    (place / "made" / "lexer.yaml").write_text("strict: false\n")
    DatasetPipeline.from_config(section, halves).run()
    assert (place / "made" / "lexer.yaml").read_text() == "strict: false\n"
    with pytest.raises(DataError, match="statistics_calculator returned 'x' for problem.a; a number by name"):
        DatasetPipeline.from_config(section, halves, lambda problem, answer: {"problem": {"a": "x"}}).run()


def test_the_command_makes_problems_of_ones_own(place, capsys):
    (place / "mine.py").write_text("def halves(seed):\n    return 2 * (seed % 500), f'{seed % 500}/1'\n")
    assert main(["algebra", "generate", "mine:halves", "made", "--train", "30", "--test", "3", "--processes", "1"]) == 0
    lexer = load_lexer("made/lexer.yaml")
    rows = (place / "made" / "train_raw.txt").read_text().splitlines()
    assert len(rows) == 30
    assert all(lexer.tokenize(row.replace("#", "|")) for row in rows)
    assert main(["algebra", "generate", "mine:thirds", "made"]) == 2
    assert "TASK 'mine:thirds' cannot be imported" in capsys.readouterr().err


def test_runs_that_were_made_before_keep_their_groups(place):
    content = {"vocab": {"range": {"n": ["", 0, 9]}}, "number_policy": {"digit_group": 2}}
    (place / "lexer.yaml").write_text(yaml.safe_dump(content))
    assert load_lexer("lexer.yaml").tokenize("12345") == ["12", "34", "5"]
    (place / "pipeline.json").write_text("{}")  # it is a run's folder
    before = load_lexer("lexer.yaml")
    assert before.tokenize("12345") == ["1", "23", "45"]
    assert "." not in before.vocabulary
    (place / "lexer.yaml").write_text(yaml.safe_dump({**content, "number_policy": {"grouping": "left"}}))
    assert load_lexer("lexer.yaml").numbers == NumberPolicy()


class Halved(torch.nn.Module):
    """An embedding of the user's, with a frozen table."""

    def __init__(self, vocab_size, d_model):
        super().__init__()
        table = torch.arange(vocab_size * d_model).reshape(vocab_size, d_model) / 1000
        self.table = torch.nn.Embedding.from_pretrained(table)

    def forward(self, input_ids):
        return self.table(input_ids) / 2


def test_an_input_embedding_of_the_users(place, tmp_path):
    config = task.write(place)
    words = read_lexer(task.LEXER, "lexer").tokenizer()
    section = {**config["model"], "input_embedding_type": "halved"}
    with pytest.raises(ConfigError, match=r"input_embedding_type 'halved' is not known. .*register_input_embedding"):
        ModelPipeline(section, words)
    register_input_embedding("Halved", Halved)
    model = ModelPipeline(section, words).build()
    assert model.encoder.tokens.table.weight[1, 1] == pytest.approx(0.033)
    ids = torch.tensor([[1, 5, 2]])
    wanted = model.eval()(ids, None, ids).logits
    model.save_pretrained(tmp_path / "saved")
    again = type(model).from_pretrained(tmp_path / "saved").eval()
    assert torch.equal(again(ids, None, ids).logits, wanted)


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_a_file_to_start_from_for_problems_that_are_there(place, kind, capsys):
    folder = place / "halves"
    folder.mkdir()
    for split, some in {"train": range(40), "test": range(40, 44)}.items():
        rows = [(f"2*{number} + x", f"{number}") for number in some]
        if kind == "txt":
            (folder / f"{split}_raw.txt").write_text("".join(f"{one} # {other}\n" for one, other in rows))
        else:
            lines = [json.dumps({"problem": one, "answer": other}) for one, other in rows]
            (folder / f"{split}_data.jsonl").write_text("\n".join(lines))
    assert main(["init", "algebra", "mine.yaml", "--data", "halves"]) == 0
    made = yaml.safe_load((place / "mine.yaml").read_text())
    assert made.keys() == {"data", "model", "train"}
    assert made["train"]["save_dir"] == "runs/halves"
    lexer = yaml.safe_load((folder / "lexer.yaml").read_text())
    assert lexer["vocab"]["range"] == {"numbers": ["", 0, 43]}
    assert main(["algebra", "train", "mine.yaml", "train.max_steps=1", "train.eval_steps=1"]) == 0
    (folder / "lexer.yaml").write_text("mine")
    assert main(["init", "algebra", "again.yaml", "--data", "halves"]) == 0
    assert (folder / "lexer.yaml").read_text() == "mine"
    assert main(["init", "algebra", "none.yaml", "--data", "nowhere"]) == 2
    assert "'nowhere' has no problems" in capsys.readouterr().err
    assert not (place / "none.yaml").exists()
