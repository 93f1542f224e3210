"""Training from files: folders, engines, adapters, what is saved, and what seed 003 shows."""

from __future__ import annotations

import json
import re
import shutil

import datasets
import pytest
import torch

from tests import installed
from tests import tiny_language as tiny
from trainwright import ConfigError, DataError, Trainer, TrainerState
from trainwright.cli.main import main
from trainwright.config import (
    BaseTrainer,
    DataParams,
    DatasetParams,
    DatasetSplitParams,
    ModelParams,
    TrainerType,
    TrainingConfig,
    TrainingParams,
    build,
    train,
)
from trainwright.config.composition import ConfiguredTrainer, build_trainer
from trainwright.config.reading.read import load_checked

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tiny.make_place(tmp_path_factory.mktemp("train"))


@pytest.fixture
def place(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return models


def write(place, data="text", drop=(), **training):
    content = tiny.settings(place, data, **{"max_steps": 3, "save_strategy": "steps", "save_steps": 2, **training})
    for name in drop:
        del content["training"][name]
    return content


def run(content, *words):
    tiny.write_yaml(tiny.Path("mine.yaml"), content)
    return main(["train", "-c", "mine.yaml", *words])


def steps_of(folder):
    return TrainerState.load_from_json(f"{folder}/trainer_state.json").global_step


RANDOM = {"load_pretrained_weights": False, "model_name": "llama"}
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
ENCODER = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
# What transformers or torch would keep in silence, or end in their own depths: (model, training, data, what is said).
UNREAD = {
    "random weights": (
        {**RANDOM, "model_kwargs": {**SIZES, "num_hiden_layers": 5}}, {}, "text",
        "num_hiden_layers: nothing reads it, for a LlamaConfig has no such setting. Did you mean 'num_hidden_layers'?",
    ),
    "loaded weights": ({"model_kwargs": {"rms_norm_epss": 1e-3}}, {}, "text", "cannot be loaded with model.model"),
    "a wrong type": ({"model_kwargs": {"attention_dropout": "much"}}, {}, "text", "cannot be loaded with model.model"),
    "another size": ({"model_kwargs": {"vocab_size": 400}}, {}, "text", "cannot be loaded with model.model"),
    "heads": (
        {**RANDOM, "model_kwargs": {**SIZES, "num_attention_heads": 3}}, {}, "text", "cannot be loaded with model",
    ),
    "tokenizer": (
        {"tokenizer_kwargs": {"padding_sidee": "left"}}, {}, "text",
        "model.tokenizer_kwargs.padding_sidee: nothing reads it of a .* Did you mean 'padding_side'?",
    ),
    "optimizer": (
        {}, {"optimizer": "sgd", "optim_args": "momentun=0.9"}, "text",
        "nothing reads 'momentun' with optim='sgd'. Did you mean 'momentum'?",
    ),
    "completions of chats": (
        {"chat_template": "chatml"}, {"trainer_kwargs": {"completion_only_loss": True}}, "chat",
        "completion_only_loss is for prompts with completions, but the data are conversations",
    ),
    "encoder": (
        {**RANDOM, "model_name": "bert", "model_kwargs": ENCODER}, {}, "text",
        "'bert' is an encoder .bert.: its tokens see those that they are to predict.",
    ),
    "compiler": ({}, {"torch_compile_backend": "inducktor"}, "text", "is not known. Did you mean 'inductor'?"),
}  # fmt: skip


@installed.todays_transformers
@pytest.mark.parametrize("name", UNREAD)
@pytest.mark.parametrize("kind", ["SFT", "HF"])
def test_what_nothing_reads_is_refused_with_the_nearest_name(place, capsys, kind, name):
    model, training, data, said = UNREAD[name]
    if kind == "HF" and name == "compiler":
        return  # transformers' own
    content = write(place, data, trainer_type=kind, output_dir="out", **training)
    content["model"] |= {"tokenizer_name": str(place / "model"), **model}
    assert run(content) == 2
    err = capsys.readouterr().err
    assert re.search(said.replace("?", r"\?"), err), err
    assert "Traceback" not in err
    assert not tiny.Path("out").exists()


def test_settings_that_are_read_are_taken(place):
    """Names of a configuration's past, of a tokenizer's loading and of its special tokens, and all that sgd reads."""
    content = write(place, optimizer="sgd", optim_args="momentum=0.9,nesterov=true,dampening=0")
    names = {"padding_side": "left", "model_max_length": 99, "use_fast": True, "unk_token": "<|end|>"}
    content["model"] |= {
        **RANDOM, "model_kwargs": {**SIZES, "num_hidden_layers": 1, "rope_theta": 5e4, "tie_word_embeddings": True},
        "tokenizer_name": str(place / "model"), "tokenizer_kwargs": {**names, "clean_up_tokenization_spaces": False},
    }  # fmt: skip
    trainer = build_trainer(load_checked(tiny.write_yaml(tiny.Path("mine.yaml"), content)).config)
    assert trainer.create_optimizer().defaults["momentum"] == 0.9
    assert (trainer.processing_class.padding_side, len(trainer.model.model.layers)) == ("left", 1)


@pytest.mark.parametrize("words", [["training.output_dir=mine.yaml"], ["training.output_dir=/proc/x"]])
def test_a_folder_that_cannot_be_is_a_sentence(place, capsys, words):
    assert run(write(place), *words) == 2
    err = capsys.readouterr().err
    assert "cannot be written (" in err
    assert "Traceback" not in err


def test_a_column_that_is_not_read_and_a_table_without_settings(place, capsys, caplog):
    content = write(place, "completion", output_dir="out")
    content["data"]["train"]["target_col"] = "story"
    assert run(content) == 0
    assert "'story' is not read as a column of texts: the data holds prompt and completion" in caplog.text
    datasets.Dataset.from_list([{"text": "the cat"}] * 8).save_to_disk("saved")
    content = write(place, output_dir="saved-run")
    content["data"]["train"]["datasets"] = [{"dataset_name": "saved", "dataset_kwargs": {"field": "x"}}]
    assert run(content) == 2
    assert "dataset_kwargs field: nothing reads them, for 'saved' is a table" in capsys.readouterr().err


def test_what_trl_refuses_is_a_sentence(place, capsys):
    pytest.importorskip("trl", reason="trl is not installed")
    content = write(place, trainer_type="TRL_SFT", trainer_kwargs={"padding_free": True}, output_dir="out")
    assert run(content) == 2
    err = capsys.readouterr().err
    assert "TRL refuses this run: " in err
    assert "Traceback" not in err


def test_training_warns_of_what_check_warns_of(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    place = tiny.make_place(tmp_path)
    content = write(place, use_peft=False, hub_model_id="a/b")
    content["peft"] = {"lora_r": 4}
    tiny.write_yaml(tmp_path / "mine.yaml", content)
    assert main(["check", "mine.yaml"]) == 0
    checked = [line for line in capsys.readouterr().err.splitlines() if "no effect" in line]
    assert run(content) == 0
    assert [line for line in capsys.readouterr().err.splitlines() if "no effect" in line] == checked
    assert len(checked) == 1


def test_every_run_gets_a_folder_that_tells_how_it_was_made(place, capsys):
    content = write(place, drop=("output_dir", "save_final_model"))
    assert run(content) == run(content) == 0
    assert sorted(path.name for path in tiny.Path("runs").iterdir()) == ["mine-1", "mine-2"]
    about = json.loads(tiny.Path("runs/mine-1/run.json").read_text())[0]
    assert about["command"] == "trainwright train -c mine.yaml"
    assert about["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    out = capsys.readouterr()
    assert "\r" not in out.out + out.err
    assert "step 3/3" in out.out

    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoModelForCausalLM.from_pretrained("runs/mine-1").num_parameters() > 0
    assert AutoTokenizer.from_pretrained("runs/mine-1").eos_token == "<|end|>"


def test_a_folder_goes_on_without_its_file_and_a_complete_run_trains_no_step(place, capsys, caplog):
    assert run(write(place, drop=("output_dir",)), "training.max_steps=5") == 0
    tiny.Path("mine.yaml").unlink()
    shutil.rmtree("runs/mine-1/checkpoint-5")
    assert main(["train", "--resume", "runs/mine-1"]) == 0
    assert "Resuming from 'runs/mine-1/checkpoint-4' at step 4 of 5" in caplog.text
    capsys.readouterr()
    assert main(["train", "--resume", "runs/mine-1"]) == 0
    assert "the run is complete, and nothing is left to train" in caplog.text
    assert "step 5/5  loss" not in capsys.readouterr().out
    assert len(json.loads(tiny.Path("runs/mine-1/run.json").read_text())) == 3
    assert main(["train", "--resume", "runs/mine-1", "training.max_steps=6"]) == 0
    assert steps_of("runs/mine-1/checkpoint-6") == 6


def test_a_folder_that_holds_a_run_is_refused_with_three_choices(place, capsys):
    content = write(place, output_dir="out")
    assert run(content) == 0
    assert run(content) == 2
    assert re.search("holds another run. --resume .*, --new .*, --overwrite", capsys.readouterr().err)
    assert run(content, "--new") == run(content, "--new") == 0
    assert tiny.Path("out-2/run.yaml").exists()
    assert tiny.Path("out-3/run.yaml").exists()
    assert run(content, "--overwrite") == 0
    assert len(list(tiny.Path("out").glob("previous-*"))) == 1
    assert run(content, "--resume", "training.max_steps=4") == 0
    assert steps_of("out/checkpoint-4") == 4


def test_a_folder_goes_on_from_another_directory(place, tmp_path, monkeypatch, capsys):
    """The file's relative paths are those of where the run began; what is changed besides arguments is told."""
    shutil.copytree(place / "model", "model")
    shutil.copy(place / "text.jsonl", "mine.jsonl")
    content = write(place, output_dir="out", use_peft=True)
    content["model"]["model_name"] = "./model"
    content["data"]["train"]["datasets"] = [{"dataset_name": "mine.jsonl"}]
    content["peft"] = {"lora_alpha": 8}
    assert run(content) == 0
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    capsys.readouterr()
    assert main(["train", "--resume", "../out", "training.max_steps=5", "peft.lora_dropout=0.5"]) == 0
    assert "Changed since this run was last begun: peft.lora_dropout 0.0 -> 0.5." in capsys.readouterr().err
    assert steps_of("../out/checkpoint-5") == 5
    assert main(["train", "--resume", "../out", "training.max_steps=6", "peft.lora_alpha=80"]) == 2
    assert "adapters that were trained with lora_alpha 8, but the model has them with 80" in capsys.readouterr().err
    kept = load_checked(tmp_path / "out" / "run.yaml").config
    assert kept.data.train.datasets[0].dataset_name == str(tmp_path / "mine.jsonl")
    assert (kept.peft.lora_dropout, kept.peft.lora_alpha) == (0.5, 8)


def test_one_command_begins_and_goes_on(place, capsys, caplog):
    tries = "training.try_resume_from_last_checkpoint=true"
    content = write(place, output_dir="out")
    assert run(content, tries) == 0  # there is nothing to go on from yet
    assert run(content, tries, "training.max_steps=4") == 0
    assert "Resuming from 'out/checkpoint-3' at step 3 of 4" in caplog.text
    assert run(content, tries, "--overwrite") == 0
    assert len(list(tiny.Path("out").glob("previous-*"))) == 1
    for checkpoint in tiny.Path("out").glob("checkpoint-*"):
        (checkpoint / "optimizer.pt").write_bytes(b"")
    capsys.readouterr()
    assert run(content, tries, "training.max_steps=4") == 2
    assert "'out': all are damaged (checkpoint-3: optimizer.pt" in capsys.readouterr().err

    content = write(place, drop=("output_dir",))
    assert run(content, tries) == run(content, tries, "training.max_steps=4") == 0
    assert steps_of("runs/mine-1/checkpoint-4") == 4


def test_batches_of_similar_lengths_and_workers(place):
    def spread(strategy):
        content = write(place, train_sampling_strategy=strategy, max_steps=20)
        trainer = build_trainer(load_checked(tiny.write_yaml(tiny.Path("mine.yaml"), content)).config)
        lengths, collate = [], trainer.data_collator
        trainer.data_collator = lambda rows: lengths.append([len(row["input_ids"]) for row in rows]) or collate(rows)
        trainer.train()
        return sum(max(some) - min(some) for some in lengths)

    assert spread("group_by_length") < spread("random") / 2
    assert run(write(place, train_sampling_strategy="group_by_length", dataloader_num_workers=2), "--overwrite") == 0


def test_several_processes_need_a_folder(place, monkeypatch, capsys):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert run(write(place, drop=("output_dir",))) == 2
    assert "Several processes need one folder" in capsys.readouterr().err


def test_the_command_says_what_is_missing(place, capsys):
    assert main(["train"]) == 2
    assert "Give FILE" in capsys.readouterr().err
    assert main(["train", "--resume", "nowhere"]) == 2
    assert "'nowhere' is no run's folder" in capsys.readouterr().err
    tiny.Path("run").mkdir()
    tiny.Path("run/run.yaml").touch()
    assert main(["train", "--resume", "run/checkpoint-4"]) == 2
    assert "it holds no run.yaml. Give 'run': its newest checkpoint is gone on from." in capsys.readouterr().err


def test_evaluation_builds_no_logits_and_has_the_same_names(place, monkeypatch):
    content = write(place, "chat", eval_strategy="steps", eval_steps=2, trainer_kwargs={"assistant_only_loss": True})
    content["model"]["chat_template"] = "chatml"
    content["data"]["validation"] = {"datasets": [{"dataset_name": str(place / "chat.jsonl"), "sample_count": 9}]}
    trainer = build_trainer(load_checked(tiny.write_yaml(tiny.Path("mine.yaml"), content)).config)
    widest = []
    hook = trainer.model.lm_head.register_forward_hook
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "eval_loss" in entry][0]
    assert {"eval_loss", "eval_mean_token_accuracy", "eval_entropy"} <= logged.keys()
    trained = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    assert all({"mean_token_accuracy", "entropy", "num_input_tokens_seen"} <= entry.keys() for entry in trained)
    metrics = trainer.evaluate()
    handle = hook(lambda layer, given, out: widest.append(out.shape[-2]))  # its own hooks switch the fused loss off
    with_logits = trainer.evaluate()
    handle.remove()
    assert max(widest) > 1
    assert metrics["eval_loss"] == pytest.approx(with_logits["eval_loss"], abs=1e-5)


@pytest.mark.parametrize("mode", ["ADAPTER_ONLY", "MERGED", "ADAPTER_AND_BASE_MODEL"])
def test_adapters_are_saved_as_asked(place, mode):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    content = write(place, use_peft=True, save_final_model=True, output_dir="out")
    content["peft"] = {"lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"], "peft_save_mode": mode}
    content["peft"]["lora_modules_to_save"] = ["lm_head"]
    trainer = build(load_checked(tiny.write_yaml(tiny.Path("mine.yaml"), content)).config)
    trainer.train()
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = trainer.trainer.model(ids).logits
    if mode == "MERGED":
        loaded = AutoModelForCausalLM.from_pretrained("out")
    else:
        base = "out/base_model" if mode == "ADAPTER_AND_BASE_MODEL" else place / "model"
        below = AutoModelForCausalLM.from_pretrained(base)
        before = AutoModelForCausalLM.from_pretrained(place / "model").state_dict()
        assert all(torch.equal(tensor, before[name]) for name, tensor in below.state_dict().items())
        loaded = PeftModel.from_pretrained(below, "out")
    assert (loaded(ids).logits - expected).abs().max() < 1e-5  # float32, merged weights round otherwise


def test_adapters_go_on_from_a_folder_and_parts_are_frozen(place):
    content = write(place, use_peft=True, save_final_model=True, output_dir="first")
    assert run(content) == 0
    content = write(place, "preference", use_peft=True, output_dir="second", trainer_type="DPO")
    content["model"]["adapter_model"] = "./first"
    trainer = build_trainer(load_checked(tiny.write_yaml(tiny.Path("mine.yaml"), content)).config)
    assert trainer.objective.reference is not None  # the adapters as they were, not the model without them
    trainer.train()
    assert trainer.state.log_history[0]["rewards/margins"] == 0.0
    frozen = write(place, output_dir="third")
    frozen["model"]["freeze_layers"] = ["model.embed_tokens"]
    trainer = build_trainer(load_checked(tiny.write_yaml(tiny.Path("mine.yaml"), frozen)).config)
    assert not trainer.model.model.embed_tokens.weight.requires_grad
    frozen["model"]["freeze_layers"] = ["model.embed_token"]
    with pytest.raises(ConfigError, match="there is no module 'model.embed_token'. Did you mean 'model.embed_tokens'"):
        build_trainer(load_checked(tiny.write_yaml(tiny.Path("mine.yaml"), frozen)).config)


def grown(place, tmp_path, kwargs=None, **training):
    content = tiny.settings(place, "text", output_dir=str(tmp_path / "out"), max_steps=4, **training)
    tiny.write_rows(tmp_path / "thoughts.jsonl", [{"text": "<think>the cat</think>"}] * 8)
    content["data"]["train"]["datasets"] = [{"dataset_name": str(tmp_path / "thoughts.jsonl")}]
    content["model"] |= kwargs or {"new_special_tokens": ["<think>", "</think>"]}
    content["peft"] = {"lora_r": 4, "lora_target_modules": ["q_proj"]}
    return load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config


@pytest.mark.parametrize(
    "kwargs", [None, {"tokenizer_kwargs": {"extra_special_tokens": ["<think>", "</think>"]}}], ids=["ours", "kwargs"]
)
def test_new_tokens_grow_the_embeddings(place, tmp_path, kwargs):
    from transformers import AutoModelForCausalLM

    trainer = build_trainer(grown(place, tmp_path, kwargs))
    old = AutoModelForCausalLM.from_pretrained(place / "model")
    assert trainer.train_dataset[0]["input_ids"].tolist()[0] == 320
    for name in ("get_input_embeddings", "get_output_embeddings"):
        ours, before = (getattr(model, name)().weight.detach() for model in (trainer.model, old))
        assert torch.equal(ours[:320], before)
        assert (ours[320:] - before.mean(0)).norm() < 0.1 * before.norm(dim=1).mean()  # near the mean, as transformers
    assert trainer.model.config.vocab_size == 322


@installed.true_mean
@pytest.mark.parametrize("use_peft", [False, True])
def test_new_tokens_are_those_of_every_engine(place, tmp_path, use_peft):
    pytest.importorskip("trl", reason="trl is not installed")
    losses = {}
    for engine in ("SFT", "TRL_SFT", "HF"):
        (tmp_path / engine).mkdir()
        more = {"trainer_type": engine, "use_peft": use_peft, "logging_steps": 1, "learning_rate": 0.01}
        config = grown(place, tmp_path / engine, **more)
        if use_peft and engine == "TRL_SFT":
            with pytest.raises(ConfigError, match="TRL_SFT cannot train the rows of new tokens beside adapters"):
                build(config)
            config.peft.lora_modules_to_save = ["embed_tokens", "lm_head"]
        trainer = build(config).trainer
        start = trainer.model.get_input_embeddings().weight.detach().clone()
        trainer.train()
        after = trainer.model.get_input_embeddings()(torch.tensor([320, 321])).detach()
        assert not torch.equal(after, start[320:322])
        losses[engine] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses["SFT"]) == 4
    for engine in ("HF",) if use_peft else ("TRL_SFT", "HF"):  # beside adapters TRL trains all rows
        assert losses[engine] == pytest.approx(losses["SFT"], abs=1e-4), engine


@pytest.mark.parametrize("tied", [False, True])
def test_new_tokens_are_trained_and_saved_with_adapters(place, tmp_path, tied):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "model"
    tiny.new_model(tie_word_embeddings=tied).save_pretrained(folder)
    tiny.new_tokenizer().save_pretrained(folder)
    given = {"model_name": str(folder), "new_special_tokens": ["<think>", "</think>"]}
    training = {"use_peft": True, "save_strategy": "steps", "save_steps": 2}
    holder = build(grown(place, tmp_path, given, **training, save_final_model=True))
    start = holder.trainer.model.get_input_embeddings().weight.detach().clone()
    holder.train()
    ids = torch.tensor([[320, 5, 6, 321]])
    expected = holder.trainer.model.eval()(ids).logits
    out = tmp_path / "out"
    base = AutoModelForCausalLM.from_pretrained(folder)
    base.resize_token_embeddings(len(AutoTokenizer.from_pretrained(out)))
    loaded = PeftModel.from_pretrained(base, out).eval()
    assert torch.equal(loaded(ids).logits, expected)
    rows = loaded.get_input_embeddings()(torch.arange(322)).detach()
    assert torch.equal(rows[:320], start[:320])
    assert not torch.equal(rows[320:], start[320:])
    shutil.rmtree(out / "checkpoint-4")
    again = build(grown(place, tmp_path, given, **training))
    again.train(resume_from_checkpoint=True)
    assert torch.equal(again.trainer.model.eval()(ids).logits, expected)


def test_a_tokenizer_that_is_not_the_models_is_refused(place, tmp_path):
    larger = tiny.new_tokenizer()
    larger.add_tokens(["<think>"])
    larger.save_pretrained(tmp_path / "larger")
    with pytest.raises(DataError, match="The tokenizer has 321 tokens, but the model knows 320. Give the model's own"):
        build_trainer(grown(place, tmp_path, {"tokenizer_name": str(tmp_path / "larger")}))


def test_keys_of_a_file_are_what_the_trainer_gets(place, capsys):
    content = write(place, include_num_input_tokens_seen="no", log_level="error")
    trainer = build_trainer(load_checked(tiny.write_yaml(tiny.Path("mine.yaml"), content)).config)
    assert (trainer.args.include_num_input_tokens_seen, trainer.args.log_level) == ("no", "error")
    assert "remove_unused_columns" not in capsys.readouterr().err
    content = write(place, remove_unused_columns=True)
    trainer = build_trainer(load_checked(tiny.write_yaml(tiny.Path("mine.yaml"), content)).config)
    assert trainer.args.include_num_input_tokens_seen == "non_padding"
    said = capsys.readouterr().err
    assert (
        said.count("training.remove_unused_columns has no effect: rows of tokens have the columns that are used") == 1
    )


def test_the_reference_is_computed_once_for_a_run(place, caplog):
    kwargs = {"precompute_ref_log_probs": True}
    content = write(place, "preference", output_dir="out", trainer_kwargs=kwargs)
    assert run(content) == 0
    assert caplog.text.count("are computed once") == 1
    assert run(content, "--resume", "training.max_steps=4") == 0
    assert caplog.text.count("are computed once") == 1


def config_of(place, kind, **training):
    return TrainingConfig(
        model=ModelParams(model_name=str(place / "model")),
        data=DataParams(train=DatasetSplitParams(datasets=[DatasetParams(dataset_name=str(place / "text.jsonl"))])),
        training=TrainingParams(
            trainer_type=kind, max_steps=3, use_cpu=True, enable_tensorboard=False, output_dir="out", **training
        ),
    )


@pytest.mark.parametrize("kind", [TrainerType.SFT, TrainerType.OUMI, TrainerType.TRL_SFT, TrainerType.HF])
def test_one_interface_for_all_engines(place, kind):
    if kind is TrainerType.TRL_SFT:
        pytest.importorskip("trl", reason="trl is not installed")
    config = config_of(place, kind)
    trainer = build(config)
    assert isinstance(trainer, BaseTrainer)
    assert isinstance(trainer, ConfiguredTrainer) == (kind in (TrainerType.SFT, TrainerType.OUMI))
    output = trainer.train()
    assert output.global_step == 3
    assert trainer.get_last_eval_metrics() == {}
    trainer.save_state()
    trainer.save_model(config, final=True)
    assert tiny.Path("out/model.safetensors").exists()
    assert steps_of("out") == 3


def test_seed_003(place):
    """The seed's snippets with the import lines changed."""
    config = TrainingConfig(training=TrainingParams(trainer_type=TrainerType.TRL_SFT))
    assert config.training.trainer_type == TrainerType.TRL_SFT
    assert train(config_of(place, TrainerType.SFT)).global_step == 3

    params = TrainingParams(max_steps=2, use_cpu=True, enable_tensorboard=False, optimizer="sgd", warmup_ratio=0.5)
    rows = [{"input_ids": torch.arange(4, 12), "labels": torch.arange(4, 12)}] * 8
    with pytest.warns(FutureWarning, match="'tokenizer' is an old name"):
        trainer = Trainer(model=tiny.new_model(), tokenizer=tiny.new_tokenizer(), args=params, train_dataset=rows)
    assert (trainer.args.optim, trainer.args.warmup_steps, trainer.args.logging_steps) == ("sgd", 0.5, 50)
    assert trainer.train().global_step == 2
    assert not issubclass(Trainer, BaseTrainer)


@installed.true_mean
def test_compare_runs_the_engines_on_the_same_rows(place, capsys):
    pytest.importorskip("trl", reason="trl is not installed")
    tiny.write_yaml(tiny.Path("mine.yaml"), write(place))
    words = ["compare", "-c", "mine.yaml", "--engines", "SFT,TRL_SFT,HF", "--steps", "4", "--rounds", "1"]
    assert main(words) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if re.match(r"\s+\d  ", line)]
    assert len(rows) == 4
    for step, *numbers in rows:
        losses, norms = numbers[0::2], numbers[1::2]
        for values in (losses, norms):
            assert [float(v) for v in values] == pytest.approx([float(values[0])] * 3, abs=2e-5), step
    assert len(re.findall(r"^(?:SFT|TRL_SFT|HF) +\d+ +\d+\.\d\d +\d+ +\d+\.\d\d$", out, re.M)) == 3
    assert tiny.Path("comparison/comparison.png").read_bytes().startswith(b"\x89PNG")
    measured = json.loads(tiny.Path("comparison/comparison.json").read_text())
    tokens = {engine: runs[0]["tokens"] for engine, runs in measured.items()}
    assert tokens["SFT"] == tokens["TRL_SFT"] == tokens["HF"]
    assert main(["compare", "-c", "mine.yaml", "--engines", "SFT,SFTT"]) == 2
    assert "'SFTT' is not known" in capsys.readouterr().err
