"""Every key of algebra's file arrives in the model or the arguments, is refused, or is said to have no effect; a
resumed run takes today's section `train`, and refuses another model, other problems or another way to read them."""

from __future__ import annotations

import os
import re

import pytest
import torch
import yaml

from tests.tasks.algebra import task
from trainwright import ConfigError
from trainwright.checkpoint.layout import step_of
from trainwright.checkpoint.lock import owned
from trainwright.cli.main import main
from trainwright.config.keys.lines import Fate
from trainwright.config.keys.task_uses import ALGEBRA, ALGEBRA_LINES, MODELS, use
from trainwright.pipelines import DatasetPipeline, IOPipeline
from trainwright.pipelines.trainer import RENAMED, arguments
from trainwright.tasks.algebra.lexer import read_lexer
from trainwright.tasks.algebra.models.models import check_model, new_model

SMALL = {
    "d_model": 32,
    "num_decoder_heads": 2,
    "num_decoder_layers": 1,
    "decoder_ffn_dim": 64,
    "max_sequence_length": 64,
}
READING = {"num_encoder_heads": 2, "num_encoder_layers": 1, "encoder_ffn_dim": 64}
_SIDES = {
    "num_encoder_layers": (2, "encoder_layers"), "num_encoder_heads": (4, "encoder_attention_heads"),
    "num_decoder_layers": (2, "decoder_layers"), "num_decoder_heads": (4, "decoder_attention_heads"),
    "encoder_ffn_dim": (48, "encoder_ffn_dim"), "decoder_ffn_dim": (48, "decoder_ffn_dim"), "d_model": (64, "d_model"),
    "max_sequence_length": (80, "max_position_embeddings"), "dropout": (0.3, "dropout"), "init_std": (0.3, "init_std"),
    "attention_dropout": (0.3, "attention_dropout"), "activation_dropout": (0.3, "activation_dropout"),
    "activation": ("gelu_new", "activation_function"),
}  # fmt: skip
# What a model is configured with, by the key: (value, name in transformers' configuration).
ARRIVES = {
    "generic": {
        **_SIDES, "use_positional_embedding": ("rope", "positions"),
        "embedding_layer_norm": (False, "embedding_layer_norm"),
        "input_embedding_type": ("learned", "input_embedding_type"),
    },
    "classifier": {
        **{name: value for name, value in _SIDES.items() if "_decoder_" not in name and "decoder_ffn" not in name},
        "use_positional_embedding": ("rope", "positions"), "embedding_layer_norm": (False, "embedding_layer_norm"),
        "input_embedding_type": ("learned", "input_embedding_type"),
    },
    "bart": {
        **_SIDES, "encoder_layerdrop": (0.3, "encoder_layerdrop"), "decoder_layerdrop": (0.3, "decoder_layerdrop"),
    },
    "gpt2": {
        "num_decoder_layers": (2, "n_layer"), "num_decoder_heads": (4, "n_head"), "decoder_ffn_dim": (48, "n_inner"),
        "num_layers": (2, "n_layer"), "num_heads": (4, "n_head"), "ffn_dim": (48, "n_inner"), "d_model": (64, "n_embd"),
        "max_sequence_length": (80, "n_positions"), "dropout": (0.3, "resid_pdrop"),
        "attention_dropout": (0.3, "attn_pdrop"),
        "activation": ("relu", "activation_function"), "init_std": (0.3, "initializer_range"),
    },
    "llama": {
        "num_decoder_layers": (2, "num_hidden_layers"), "num_decoder_heads": (4, "num_attention_heads"),
        "decoder_ffn_dim": (48, "intermediate_size"), "num_layers": (2, "num_hidden_layers"),
        "num_heads": (4, "num_attention_heads"), "ffn_dim": (48, "intermediate_size"), "d_model": (64, "hidden_size"),
        "max_sequence_length": (80, "max_position_embeddings"), "attention_dropout": (0.3, "attention_dropout"),
        "activation": ("relu", "hidden_act"), "init_std": (0.3, "initializer_range"),
    },
}  # fmt: skip
OTHER = {"embedding_layer_norm": {"bart": False, "gpt2": True, "llama": True}}  # values that are not what is done


def tokenizer():
    return read_lexer(task.LEXER, "lexer").tokenizer()


def base(kind):
    reads = READING if kind in ("generic", "bart") else {}
    if kind == "classifier":
        return {"model_type": "encoder_classifier", "d_model": 32, "max_sequence_length": 64, **READING}
    return {"model_type": kind, **SMALL, **reads}


@pytest.mark.parametrize("kind", MODELS)
def test_every_key_of_a_model_arrives_or_is_refused_or_said(kind, capsys):
    words, twins = tokenizer(), {"num_layers": "num_decoder_layers", "num_heads": "num_decoder_heads",
                                 "ffn_dim": "decoder_ffn_dim"}  # fmt: skip
    for key in ALGEBRA["model"]:
        section = base(kind)
        lines = [line for line in ALGEBRA_LINES if f"model.{key}" in line.keys and kind in line.trainers]
        section.pop(twins.get(key, ""), None)
        capsys.readouterr()
        if lines:
            section[key] = OTHER.get(key, {}).get(kind, 3)
            if lines[0].fate is Fate.REFUSED:
                with pytest.raises(ConfigError, match=f"model.{key} is .*, but {lines[0].why}"):
                    new_model(section, words)
            else:
                new_model(section, words)
                assert f"model.{key} has no effect: {lines[0].why}" in capsys.readouterr().out
        elif key in ARRIVES[kind]:
            value, name = ARRIVES[kind][key]
            assert getattr(new_model({**section, key: value}, words).config, name) == value, key
            assert getattr(new_model(section, words).config, name) != value, key
        else:
            assert key in ("model_type", "seed", "use_positional_embedding"), key


def test_no_dropout_follows_the_embeddings_whatever_that_of_the_layers_is():
    """As in CALT's models: the sum of what a token and its place mean goes on whole."""
    made = new_model({**base("generic"), "dropout": 0.5}, tokenizer()).train()
    for part in (made.encoder, made.decoder):
        x = torch.randn(2, 5, made.config.d_model)
        assert torch.equal(part.dropout(x), x)
    assert made.config.dropout == 0.5


def test_a_models_seed_and_kind_decide():
    words = tokenizer()
    one, same, other = (new_model({**base("gpt2"), "seed": seed}, words) for seed in (1, 1, 2))
    weights = [model.transformer.wte.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert new_model({**base("decoder_only"), "use_positional_embedding": "rope"}, words).config.model_type == "llama"
    positions = [
        new_model({**base("generic"), "use_positional_embedding": name}, words).config.positions
        for name in ("generic", "learned")
    ]
    assert positions == ["learned"] * 2  # CALT's name, and ours
    assert new_model(base("llama"), words).config.hidden_act == "silu"  # transformers' own, where nothing is given
    with pytest.raises(ConfigError, match="activation 'gelo' is not known. Did you mean 'gelu'"):
        new_model({**base("llama"), "activation": "gelo"}, words)
    with pytest.raises(ConfigError, match="'num_layers' and 'num_decoder_layers' are two names of one thing"):
        new_model({**base("llama"), "num_layers": 3}, words)


TRAIN = {"num_train_epochs": 1, "learning_rate": 0.1, "batch_size": 3, "test_batch_size": 5, "use_cpu": True}


def test_every_key_of_train_arrives(monkeypatch, capsys):
    values = {
        "save_dir": "x",
        "batch_size": 7,
        "test_batch_size": 9,
        "warmup_ratio": 0.2,
        "optimizer": "sgd",
        "num_workers": 2,
    }
    assert set(values) == set(RENAMED)
    args = arguments({**TRAIN, **values}, None)
    assert {name: getattr(args, RENAMED[name]) for name in values} == values
    for name in ("WANDB_RUN_GROUP", "WANDB_TAGS"):
        monkeypatch.setenv(name, "before")
    args = arguments(TRAIN, {"project": "p", "name": "n", "group": "g", "tags": ["a", "b"]})
    assert (args.report_to, args.project, args.run_name) == (["wandb"], "p", "n")
    assert (os.environ["WANDB_RUN_GROUP"], os.environ["WANDB_TAGS"]) == ("g", "a,b")
    with pytest.raises(ConfigError, match="'wandb' and 'report_to' are two names of one thing"):
        arguments({**TRAIN, "report_to": "none"}, {"project": "p"})
    assert arguments({**TRAIN, "run_name": "mine"}, {"project": "p"}).run_name == "mine"
    arguments({**TRAIN, "save_safetensors": False, "verify_generation": "none"}, None)
    assert "train.save_safetensors has no effect: safetensors are always used" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("read", "given", "said"),
    [
        (DatasetPipeline.from_config, {"num_train_samples": -5}, "cfg.dataset.num_train_samples is -5, but a whole"),
        (IOPipeline.from_config, {"display_samples": -3}, "cfg.data.display_samples is -3, but a whole number of at"),
        (lambda given: check_model(given, "cfg.model"), {"d_model": 0}, "cfg.model.d_model is 0, but a whole number"),
        (
            lambda given: check_model(given, "cfg.model"),
            {"num_decoder_heads": True},
            "cfg.model.num_decoder_heads is True, but a whole",
        ),
        (
            lambda given: check_model(given, "cfg.model"),
            {"dropout": 1.5},
            "cfg.model.dropout is 1.5, but a number from",
        ),
        (lambda given: arguments(given, None), {"warmup_ratio": 1}, "cfg.train.warmup_ratio is 1, but a number from 0"),
        (
            lambda given: arguments(given, None),
            {"generation_max_length": 0},
            "cfg.train.generation_max_length is 0, but",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(read, given, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        read({**({"save_dir": "d", "num_test_samples": 1} if "dataset" in said else {}), **given})


def test_files_of_the_other_form_are_said_to_have_no_effect():
    paths = {"train_dataset_path": "a", "test_dataset_path": "b"}
    assert list(use(paths, "data", "generic")) == []
    assert list(use({**paths, "use_jsonl": True, "train_dataset_jsonl": "c"}, "data", "generic")) == [
        "data.train_dataset_path, data.test_dataset_path have no effect without use_jsonl: false."
    ]
    assert list(use({"train_dataset_jsonl": "c"}, "data", "generic")) == [
        "data.train_dataset_jsonl has no effect without use_jsonl: true."
    ]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = task.write(tmp_path, eval_strategy="no", save_steps=4)
    config["dataset"] = {"task": "gf17_sum", "save_dir": "made", "num_train_samples": 60, "num_test_samples": 12}
    names = {"lexer_config": "lexer.yaml", "train_dataset_path": "train_raw.txt", "test_dataset_path": "test_raw.txt"}
    config["data"] |= {"task": "gf17_sum", **{key: f"made/{name}" for key, name in names.items()}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


@pytest.mark.slow
def test_a_resumed_run_takes_what_is_given_or_refuses_it(place, capsys):
    assert main(["algebra", "train", "run.yaml", "train.max_steps=4"]) == 0
    assert main(["algebra", "train", "run.yaml", "train.max_steps=8", "train.learning_rate=0.002", "--resume"]) == 0
    folder = place / "results" / "my_experiment"
    assert max(step_of(path) for path in folder.glob("checkpoint-*")) == 8
    kept = yaml.safe_load((folder / "train.yaml").read_text())["train"]
    assert (kept["max_steps"], kept["learning_rate"]) == (8, 0.002)
    again = ["algebra", "train", "run.yaml", "train.max_steps=8", "--resume"]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for change, said in {
        "train.batch_size=3": "The data order is not the checkpoint's",
        "model.d_model=64": "model.d_model is 64, but the run in 'results/my_experiment' began with 32",
        "model.dropout=0.3": "model.dropout is 0.3, but",
        "data.num_train_samples=20": "data.num_train_samples is 20, but",
        "data.dataset_load_preprocessor=reversed_order": "data.dataset_load_preprocessor is 'reversed_order', but",
        "data.lexer_config=configs/lexer.yaml": "data.lexer_config 'configs/lexer.yaml' is another lexer",
        "data.train_dataset_path=data/train_raw.txt": "have changed since the run began",
        "dataset.num_train_samples=77": "'made' holds other problems: num_train_samples 60, not 77",
    }.items():
        capsys.readouterr()
        assert main([*again, change]) == 2, change
        assert said in capsys.readouterr().err, change
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main([*again, "data.display_samples=1"]) == 0
    assert main([*again, "model.activation=relu"]) == 0  # which it is


def test_problems_of_another_section_are_not_taken_for_those_asked_for(place, capsys):
    assert main(["algebra", "train", "run.yaml", "train.max_steps=1", "train.save_strategy=no"]) == 0
    for change, said in {
        "dataset.task=parity": "holds other problems: task gf17_sum, not parity",
        "dataset.root_seed=7": "holds other problems: root_seed 42, not 7",
    }.items():
        assert main(["algebra", "train", "run.yaml", "train.save_dir=other", change]) == 2
        assert said in capsys.readouterr().err


def test_nothing_is_written_where_another_run_goes_on(place, capsys):
    for more in ([], ["--resume"]):
        with owned(place / "results" / "my_experiment"):
            assert main(["algebra", "train", "run.yaml", *more]) == 2
        assert "is in use by process" in capsys.readouterr().err
    assert not (place / "made").exists()
    assert not list((place / "results" / "my_experiment").iterdir())


def test_problems_are_read_where_they_are_made(place, monkeypatch, capsys):
    """From another directory too: those that lie beside the file are not taken for others that are asked for."""
    assert main(["algebra", "train", "run.yaml", "train.max_steps=1", "train.save_strategy=no"]) == 0
    monkeypatch.chdir(place.parent)
    other = ["dataset.task=parity", "data.task=parity", "train.save_dir=other", "train.max_steps=1"]
    assert main(["algebra", "train", f"{place.name}/run.yaml", *other]) == 2
    assert f"'{place.name}/made' holds other problems: task gf17_sum, not parity" in capsys.readouterr().err
    assert not (place.parent / "made").exists()
