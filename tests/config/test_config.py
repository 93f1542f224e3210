"""A run's file: everything right loads, everything wrong is told at once, with its line."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import fields
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from tests import tiny_language as tiny
from trainwright import ConfigError, TrainingArguments
from trainwright.cli import as_job
from trainwright.cli.main import main
from trainwright.config import PeftParams, TrainerType, TrainingConfig, TrainingParams
from trainwright.config.keys.json_schema import schema
from trainwright.config.options import DPOOptions, SFTOptions
from trainwright.config.reading.read import check, load, load_checked
from trainwright.config.reading.translate import argument_values, arguments_of
from trainwright.config.reading.writing import as_yaml

RECIPES = sorted((Path(__file__).parent / "recipes").glob("*.yaml"))
GOOD = """\
model:
  model_name: llama
  load_pretrained_weights: false
data:
  train:
    datasets:
      - dataset_name: rows.jsonl
training:
  trainer_type: SFT
  learning_rate: 1e-5
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows_of("text", 3))
    (tmp_path / "run.yaml").write_text(GOOD)
    return tmp_path


def errors_of(text, *overrides):
    Path("run.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_checked(Path("run.yaml"), overrides)
    return str(caught.value)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_oumis_recipes_load(path):
    config = load(path).config
    assert isinstance(config, TrainingConfig)
    assert isinstance(argument_values(config.training)["learning_rate"], float)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_an_unknown_key_in_a_recipe_does_not(path, tmp_path):
    content = yaml.safe_load(path.read_text())
    content["model"]["modle_name"] = "x"
    with pytest.raises(ConfigError, match="unknown key model.modle_name"):
        load(tiny.write_yaml(tmp_path / "run.yaml", content))


def test_what_the_recipes_say_is_read():
    named = {path.stem[3:]: load(path).config for path in RECIPES}
    assert len(named) >= 20
    arguments = argument_values(named["full_sft"].training)
    assert (arguments["learning_rate"], arguments["optim"]) == (2e-5, "adamw_torch_fused")
    assert arguments["gradient_checkpointing_kwargs"] == {"use_reentrant": False}
    assert "wandb" in arguments["report_to"]
    assert argument_values(named["lora_sft"].training)["warmup_steps"] == 0.02
    assert named["qlora_sft"].peft.lora_init_weights == "random"
    pretrain = argument_values(named["oumi_pretrain"].training)
    assert (pretrain["bf16"], pretrain["save_strategy"], pretrain["logging_steps"]) == (True, "no", 50)
    mixed = named["interpolation"]
    assert mixed.model.tokenizer_name == "base"
    assert mixed.training.run_name == "base.sft"
    assert mixed.data.train.seed == mixed.training.data_seed == 17
    assert "${m.content}" in mixed.model.chat_template
    assert named["defaults_only"].training.trainer_type is None
    assert named["sgd_eval"].training.max_grad_norm is None
    assert argument_values(named["sgd_eval"].training) | {"max_grad_norm": 0.0, "optim_args": "momentum=0.9"} == (
        argument_values(named["sgd_eval"].training)
    )


def test_every_argument_may_stand_under_training(place):
    values = {f.name: None for f in fields(TrainingArguments)}
    known = {f.name for f in fields(TrainingParams)}
    assert values.keys() <= known
    (place / "run.yaml").write_text(GOOD + "  torch_empty_cache_steps: 4\n  spike_factor: 3\n  eval_delay: 2\n")
    arguments = argument_values(load_checked(place / "run.yaml").config.training)
    assert (arguments["torch_empty_cache_steps"], arguments["spike_factor"], arguments["eval_delay"]) == (4, 3.0, 2.0)


# What a user may write, the message that must come, and the hint below the line.
MISTAKES = {
    "a key": ("  learning_rat: 2e-5", "run.yaml:11: unknown key training.learning_rat", "you mean 'learning_rate'?"),
    "a key of peft": ("  lora_r: 8", "unknown key training.lora_r", "Did you mean 'peft.lora_r'?"),
    "a key of the model": ("  model_name: x", "unknown key training.model_name", "Did you mean 'model.model_name'?"),
    "a setting of TRL": ("  packing: true", "unknown key training.packing", "'training.trainer_kwargs.packing'?"),
    "a switch of training": ("peft: {use_peft: true}", "unknown key peft.use_peft", "'training.use_peft'?"),
    "an optimizer": ("  optimizer: adamm", "run.yaml:11: optimizer='adamm' is not known", ""),
    "a schedule": ("  lr_scheduler_type: cosin", "lr_scheduler_type='cosin' is not known. Did you mean 'cosine'?", ""),
    "a batch size": ("  per_device_train_batch_size: -3", "per_device_train_batch_size=-3 must be a whole number", ""),
    "a half step": ("  max_steps: 10.5", "training.max_steps: 10.5 is a number, but a whole number is expected", ""),
    "no number": ("peft: {lora_dropout: .nan}", "peft.lora_dropout: nan is not finite, but a number is expected", ""),
    "an endless one": ("  weight_decay: .inf", "training.weight_decay: inf is not finite", ""),
    "a text": ("  max_steps: fast", "training.max_steps: 'fast' is a text, but a whole number is expected", ""),
    "quotes": ("  max_steps: '10'", "training.max_steps: '10' is a text", "write it without quotes"),
    "a truth": ("  use_peft: maybe", "training.use_peft: 'maybe' is a text, but true or false is expected", ""),
    "evaluation": ("  eval_strategy: steps", "run.yaml:11: eval_strategy steps needs data.validation.datasets", "or"),
    "a setting": (
        "  trainer_kwargs: {packng: true}", "unknown key training.trainer_kwargs.packng", "Did you mean 'packing'?",
    ),
    "a packing": (
        "  trainer_kwargs: {packing_strategy: bdf}", "packing_strategy 'bdf' is not known", "Did you mean 'bfd'?",
    ),
    "no length": ("  trainer_kwargs: {packing: true, max_length: null}", "packing needs max_length", ""),
    "twins": (
        "  optimizer: sgd\n  optim: adafactor",
        "run.yaml:12: training.optimizer (line 11) and training.optim are two names of one thing",
        "give only one",
    ),
    "old and new": (
        "  trainer_kwargs: {max_seq_length: 5, max_length: 6}", "max_seq_length (line 11) and training.trainer_kw", "",
    ),
    "no checkpoint": ("  resume_from_checkpoint: ./gone", "there is no folder './gone'", "checkpoint-N"),
    "the newest": ("  resume_from_checkpoint: true", "there is no folder 'true'", "try_resume_from_last_checkpoint"),
    "a section": ("peft: 3", "peft is 3, but a section with keys is expected", ""),
    "a rank": ("  use_peft: true\npeft: {lora_r: 0}", "lora_r 0 is less than 1", ""),
    "an alpha": ("  use_peft: true\npeft: {lora_alpha: 0}", "lora_alpha 0 is not above 0", ""),
    "a dropout": ("  use_peft: true\npeft: {lora_dropout: 1.5}", "lora_dropout 1.5 is not from 0 to below 1", ""),
    "no share": ("  warmup_ratio: 1", "warmup_ratio 1 is no share of the run", "steps are warmup_steps"),
    "an evaluation": ("  eval_on_start: true", "eval_on_start needs data.validation.datasets", ""),
    "saves": ("  save_steps: -3", "save_steps -3 is negative", ""),
    "q_lora alone": ("peft: {q_lora: true}", "q_lora needs training.use_peft: true", ""),
    "the profiler": ("  profiler: {enable_cpu_profiling: true}", "valid, but the profiler is not supported yet", ""),
    "a twice given key": ("  learning_rate: 3", "run.yaml:11: not valid YAML: the key 'learning_rate' is given tw", ""),
    "a missing colon": ("  max_steps 3\n  x: 1", "not valid YAML", ""),
    "a tab": ("\tmax_steps: 3", "run.yaml:11: not valid YAML", ""),
    "a bad reference": ("  run_name: ${training.sead}", "refers to something that is not there", "'training.seed'"),
    "a circle of references": ("  run_name: ${training.project}\n  project: ${training.run_name}",
                               "'${training.project}' has no value", "Recursive interpolation"),
    "a bad reference of a reference": ("  run_name: ${training.project}\n  project: ${training.sead}",
                                       "'${training.project}' has no value", "'training.sead' not found"),
    "fp16 and bf16": ("  fp16: true\n  bf16: true", "fp16 and bf16 are both set", ""),
    "an open reference": ("  run_name: ${training.seed", "'${training.seed' holds a reference that can", "${section"),
    "an anchor in a circle": ("peft: &a\n  rank_pattern: *a", "not valid YAML: an anchor (&) holds itself", ""),
    "less than nothing": ("  warmup_ratio: -0.1", "warmup_ratio -0.1 is no share of the run, from 0 to below 1", ""),
    "more than all": ("  warmup_ratio: 5", "warmup_ratio 5 is no share of the run", ""),
    "a warm-up of a constant": (
        "  lr_scheduler_type: constant\n  warmup_steps: 3", "training.warmup_steps needs an lr_scheduler_type that", "",
    ),
    "a momentum twice": (
        "  optimizer: sgd\n  sgd_momentum: 0.9\n  optim_args: nesterov=true, momentum=0.5",
        "run.yaml:12: sgd_momentum is given in optim_args too, as momentum", "give only one",
    ),
    "nobody's home": ("  output_dir: ~nobody-of-that-name/x", "is in the home of nobody here", ""),
    "a start method": ("  dataloader_multiprocessing_context: spoon", "there is no start method 'spoon'", "spawn"),
    "checkpointing": (
        "  gradient_checkpointing: true\n  gradient_checkpointing_kwargs: {use_reentrantt: false}",
        "nothing reads gradient_checkpointing_kwargs.use_reentrantt", "Did you mean 'use_reentrant'?",
    ),
    "a multiple": ("  trainer_kwargs: {pad_to_multiple_of: abc}", "pad_to_multiple_of 'abc' is no whole number", ""),
    "workers": ("  dataloader_num_workers: many", "dataloader_num_workers 'many' is no number", "auto"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(place, name):
    line, message, hint = MISTAKES[name]
    said = errors_of(GOOD + line + "\n")
    assert message in said, said
    assert hint in said, said
    assert "Traceback" not in said


ELSEWHERE = {
    "no model": (("model_name: llama", "trust_remote_code: false"), "model.model_name is missing"),
    "no data": (("      - dataset_name: rows.jsonl", "      []"), "data.train.datasets is missing"),
    "a stream": (
        ("    datasets:\n", "    stream: true\n    datasets:\n      - {dataset_name: rows.jsonl, shuffle: true}\n"),
        "run.yaml:7: the datasets of a stream are shuffled together, but not all have the same shuffle",
    ),
    "a file": (("rows.jsonl", "row.jsonl"), "run.yaml:7: there is no file or folder 'row.jsonl'"),
    "a folder": (("model_name: llama", "model_name: ./lama"), "run.yaml:2: there is no folder './lama'"),
    "a format": (("rows.jsonl", "json"), "'json' is a format, so dataset_path must say where the data is"),
    "a dataset": (("rows.jsonl", "tex_sft_jsonl"), "there is no dataset 'tex_sft_jsonl'"),
    "a trainer": (("SFT", "TRL_SFFT"), "training.trainer_type: 'TRL_SFFT' is not known"),
    "another's trainer": (("SFT", "VERL_GRPO"), "valid, but VERL_GRPO is not run here; run it with verl"),
    "a dtype": (("model_name: llama", "model_name: llama\n  torch_dtype_str: bf61"), "'bf61' is no number format"),
    "proportions": (("rows.jsonl", "rows.jsonl\n        mixture_proportion: 0.4"), "add up to 0.4, not to 1"),
    "no hub's name": (("model_name: llama", "model_name: my lama"), "run.yaml:2: there is no folder 'my lama'"),
    "a checkpoint": (("model_name: llama", "model_name: runs/sft-9/checkpoint-8"), "there is no folder 'runs/sft-9/"),
    "nobody's model": (("model_name: llama", "model_name: ~nobody-of-that-name/x"), "there is no folder '~nobody-of-"),
    "a key of its own": (("llama", "llama\n  model_kwargs: {dtype: float16}"), "model.model_kwargs.dtype is a key of"),
    "processes of a dataset": (("rows.jsonl", "rows.jsonl\n        transform_num_workers: many"), "'many' is no num"),
    "settings of no reader": (
        ("rows.jsonl", "python_source\n        dataset_kwargs: {rooot: x}"), "nothing reads dataset_kwargs.rooot",
    ),
    "an unknown section": (("training:", "trainin:"), "unknown key trainin"),
}  # fmt: skip


@pytest.mark.parametrize("name", ELSEWHERE)
def test_mistakes_elsewhere(place, name):
    (old, new), message = ELSEWHERE[name]
    said = errors_of(GOOD.replace(old, new))
    assert message in said, said


UNREAD = {
    "shuffle_dataset: true": "every pass is shuffled anew already",
    "model_init_kwargs: {dtype: float32}": "model_init_kwargs are not read",
    "router_aux_loss_coef: 0.1": "router_aux_loss_coef is not supported",
    "dataset_kwargs: {add_special_tokens: false}": "dataset_kwargs are not read",
    "loss_type: dtf": "loss_type 'dtf' is not known",
    "truncation_mode: keep_end": "training.trainer_kwargs.truncation_mode: rows are cut at their end",
    "activation_offloading: true": "activation_offloading is not supported",
}


@pytest.mark.parametrize("setting", UNREAD)
def test_settings_that_only_trl_reads_are_not_passed_over(place, setting):
    said = errors_of(GOOD + f"  trainer_kwargs: {{{setting}}}\n")
    assert UNREAD[setting] in said, said


DPO_MISTAKES = {
    "loss_type: [sigmod]": "loss_type 'sigmod' is not known",
    "loss_weights: [1, 2]": "2 loss_weights for 1 losses",
    "beta: -1": "beta -1.0 is negative",
    "f_divergence_type: kl": "f_divergence_type 'kl' is not known",
    "loss_type: exo_pair": "exo_pair takes the logarithm of label_smoothing",
    "sync_ref_model: true, precompute_ref_log_probs: true": "sync_ref_model needs a reference that is a model",
    "sync_ref_model: true, ref_model_sync_steps: 0": "ref_model_sync_steps 0 is less than one step",
    "sync_ref_model: true, ref_model_mixup_alpha: 2": "ref_model_mixup_alpha 2 is not above 0 and at most 1",
    "f_divergence_type: forward_kl, loss_type: nca_pair": "f_divergence_type needs a loss_type that reads it (sigmoid",
    "beta: 0.3, loss_type: sft": "beta needs another loss_type than sft",
    "packing: true": "training.trainer_kwargs.packing: it is a setting of supervised fine-tuning",
    "label_smoothing: 0.1": "label_smoothing needs loss_type: exo_pair or robust or aot or aot_unpaired",
    "ld_alpha: 7": "ld_alpha 7 is not from 0 to 1",
    "precompute_ref_log_probs: true, precompute_ref_batch_size: 0": "precompute_ref_batch_size 0 is less than one pair",
    "dataset_num_proc: 0": "dataset_num_proc 0 is less than 1",
    "pad_to_multiple_of: -8": "pad_to_multiple_of -8 is less than 1",
}


@pytest.mark.parametrize("setting", DPO_MISTAKES)
def test_mistakes_of_preferences(place, setting):
    said = errors_of(GOOD.replace("SFT", "dpo") + f"  trainer_kwargs: {{{setting}}}\n")
    assert DPO_MISTAKES[setting] in said, said


def test_two_keys_that_say_the_contrary_of_each_other_are_a_mistake(place):
    text = GOOD.replace("  train:\n", "  train:\n    collator_name: text_completions_only_with_padding\n")
    said = errors_of(text + "  trainer_kwargs: {assistant_only_loss: false}\n")
    assert "run.yaml:6: text_completions_only_with_padding learns the assistant's turns alone, and" in said


def test_a_warm_up_of_nothing_is_none(place):
    for name in ("warmup_ratio", "warmup_steps"):
        (place / "run.yaml").write_text(GOOD + f"  lr_scheduler_type: constant\n  {name}: 0\n")
        assert load_checked(place / "run.yaml").config.training.lr_scheduler_type == "constant"


def test_all_mistakes_at_once_in_the_order_of_the_file(place):
    said = errors_of(GOOD.replace("llama", "./gone") + "  learning_rat: 1\n  optimizer: adamm\n  max_steps: fast\n")
    assert re.findall(r"run.yaml:(\d+)", said) == ["2", "11", "12", "13"]
    assert "   11 |   learning_rat: 1\n          ^^^^^^^^^^^^ Did you mean 'learning_rate'?" in said


def test_what_is_wrong_in_the_section_fsdp_has_its_own_line(place):
    told = errors_of(GOOD + "fsdp:\n  enable_fsdp: true\n  shard: 0\n  mixed_precision: fp8\n")
    assert "run.yaml:13: shard=0 must be a whole number of at least 1" in told
    assert "run.yaml:14: mixed_precision='fp8' is not known. Known: bf16, fp32" in told
    assert "reduce_dtype" not in told


def test_overrides_in_both_habits(place):
    overrides = ["training.max_steps=7", "--training.seed", "3", "--model.model_kwargs.hidden_size=64",
                 "data.train.datasets[0].sample_count=2", "training.eval_strategy=no"]  # fmt: skip
    config = load_checked(place / "run.yaml", overrides).config
    assert (config.training.max_steps, config.training.seed) == (7, 3)
    assert config.model.model_kwargs == {"hidden_size": 64}
    assert config.data.train.datasets[0].sample_count == 2
    assert config.training.eval_strategy == "no"
    with pytest.raises(
        ConfigError, match=r"max_steps=3: unknown key max_steps \(Did you mean 'training.max_steps'\?\)"
    ):
        load(place / "run.yaml", ["max_steps=3"])
    with pytest.raises(ConfigError, match="command line: training.max_step=3: unknown key training.max_step"):
        load(place / "run.yaml", ["training.max_step=3"])
    for words in (["--training.seed"], ["--training.run_name=x", "--training.seed", "--training.max_steps=3"]):
        with pytest.raises(ConfigError, match="--training.seed has no value"):
            load(place / "run.yaml", words)
    assert load(place / "run.yaml", ["--training.run_name", "--mine"]).config.training.run_name == "--mine"
    with pytest.raises(ConfigError, match="the list has 1 items"):
        load(place / "run.yaml", ["data.train.datasets.4.split=x"])


def test_overrides_of_items(place):
    (place / "run.yaml").write_text(GOOD + "peft:\n  lora_target_modules: [q_proj, v_proj]\n")

    def modules(*overrides):
        return load_checked(place / "run.yaml", overrides).config.peft.lora_target_modules

    assert modules("peft.lora_target_modules[0]=k_proj") == ["k_proj", "v_proj"]
    assert modules("peft.lora_target_modules.1=k_proj") == ["q_proj", "k_proj"]
    assert modules("peft.lora_target_modules[2]=k_proj") == ["q_proj", "v_proj", "k_proj"]
    assert modules("peft.lora_target_modules=[o_proj]", "peft.lora_target_modules[0]=k_proj") == ["k_proj"]


def test_settings_of_adapters_are_those_of_peft():
    pytest.importorskip("peft", reason="peft is in the extra `llm`")
    from trainwright.models.adapters import add_adapters, lora_config

    given = {
        "lora_r": 3, "lora_alpha": 5, "lora_dropout": 0.25, "lora_target_modules": ["q_proj", "o_proj"],
        "lora_exclude_modules": ["layers.0.self_attn.o_proj"], "lora_modules_to_save": ["lm_head"],
        "lora_bias": "lora_only", "lora_init_weights": "gaussian", "lora_task_type": "TaskType.SEQ_CLS",
        "lora_target_parameters": ["mlp.gate_proj.weight"],
    }  # fmt: skip
    assert given.keys() == {one.name for one in fields(PeftParams) if one.name.startswith("lora_")}
    assert all(value != getattr(PeftParams(), name) for name, value in given.items())
    kept = lora_config(PeftParams(**given)).to_dict()
    theirs = {"lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "lora_init_weights": "init_lora_weights"}
    for name, value in given.items():
        found = kept[theirs.get(name, name.removeprefix("lora_"))]
        found = sorted(found) if isinstance(found, set) else found
        wanted = sorted(value) if isinstance(value, list) else value
        assert found == (wanted if name != "lora_task_type" else "SEQ_CLS"), name
    del given["lora_target_parameters"]  # beside it peft takes no dropout
    model = add_adapters(tiny.new_model(), PeftParams(**given | {"lora_task_type": "CAUSAL_LM"}), None, False)
    sizes = {name: tuple(p.shape) for name, p in model.named_parameters() if "lora_A" in name}
    assert {name.partition("layers.")[2] for name in sizes} == {
        "0.self_attn.q_proj.lora_A.default.weight",
        "1.self_attn.q_proj.lora_A.default.weight",
        "1.self_attn.o_proj.lora_A.default.weight",
    }
    assert set(sizes.values()) == {(3, 32)}
    assert {part.p for name, part in model.named_modules() if name.endswith("lora_dropout.default")} == {0.25}


@pytest.mark.slow
def test_a_folders_own_file_says_the_same_again(place):
    for path in RECIPES:
        config = load(path).config
        again = tiny.write_yaml(place / "again.yaml", as_yaml(config))
        assert as_yaml(load(again).config) == as_yaml(config), path
        assert argument_values(load(again).config.training) == argument_values(config.training)


def test_names_of_the_past_are_mapped_with_a_warning(place, capsys):
    (place / "run.yaml").write_text(GOOD + "  trainer_kwargs: {max_seq_length: 77}\n  evaluation_strategy: no\n")
    config = load_checked(place / "run.yaml").config
    assert config.training.trainer_kwargs == {"max_length": 77}
    assert config.training.eval_strategy == "no"
    said = capsys.readouterr().err
    assert "run.yaml:11: training.trainer_kwargs.max_seq_length is an old name" in said
    both = "  trainer_kwargs: {no_cuda: true, include_inputs_for_metrics: true}\n  group_by_length: true\n"
    (place / "run.yaml").write_text(GOOD + both)
    params = load(place / "run.yaml").config.training
    assert (params.use_cpu, params.include_for_metrics) == (True, ["inputs"])
    assert params.train_sampling_strategy == "group_by_length"
    said = capsys.readouterr().err
    assert "run.yaml:12: training.group_by_length is an old name; use train_sampling_strategy='group_by_length'" in said
    (place / "run.yaml").write_text(GOOD + "  group_by_length: true\n  train_sampling_strategy: random\n")
    with pytest.raises(ConfigError, match=r"group_by_length \(line 11\) and .* are two names of one thing"):
        load(place / "run.yaml")


def test_check_needs_no_torch_and_half_a_second(place):
    code = "import sys\nfrom trainwright.cli.main import main\ncode = main(['check', '-c', 'run.yaml'])\n"
    code += "print(code, *[m for m in ('torch', 'transformers', 'datasets', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["run.yaml is valid: SFT, llama, 3 epochs.", "0"]
    (place / "run.yaml").write_text(GOOD + "  learning_rat: 1\n")
    before = sorted(place.iterdir())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2"]
    assert sorted(place.iterdir()) == before


def test_python_has_the_same_names_and_checks():
    config = TrainingConfig(training=TrainingParams(trainer_type=TrainerType.TRL_SFT))
    with pytest.raises(ConfigError, match="model.model_name is missing"):
        check(config)
    assert TrainingParams(trainer_type="dpo").trainer_type == TrainerType.DPO
    assert arguments_of(TrainingParams(learning_rate=3e-4, max_steps=4)).learning_rate == 3e-4
    assert isinstance(TrainingConfig().training.output_dir, type(None))


def test_the_names_are_trls():
    trl = pytest.importorskip("trl", reason="trl is not installed")
    import transformers

    base = {f.name for f in fields(transformers.TrainingArguments)}
    for ours, theirs in ((SFTOptions, trl.SFTConfig), (DPOOptions, trl.DPOConfig)):
        own = {f.name for f in fields(theirs)} - base
        assert own <= {f.name for f in fields(ours)}
        assert {f.name for f in fields(ours)} - own <= {"ref_model"}
    usual = {f.name: f.default for f in fields(trl.DPOConfig)}
    assert all(
        getattr(DPOOptions(), name) == usual[name] for name in ("beta", "ld_alpha", "discopop_tau", "max_length")
    )


def test_packages_of_optimizers_are_told_at_check(place, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("bitsandbytes", "optimi") else True)
    said = errors_of(GOOD + "  optimizer: adamw_bnb_8bit\n")
    assert "run.yaml:11: optimizer adamw_bnb_8bit needs the package 'bitsandbytes', which is not installed" in said
    assert "pip install 'trainwright[quant]'" in said
    assert "pip install torch-optimi" in errors_of(GOOD + "  optim: stable_adamw\n")
    assert "needs the package" not in errors_of(GOOD + "  optim: adamw_torch_fused\n  learning_rat: 1\n")


def test_the_schema_for_editors_is_shipped_as_it_is():
    shipped = (files("trainwright") / "recipes" / "run.schema.json").read_text()
    assert json.loads(shipped) == json.loads(json.dumps(schema())), "python -m trainwright.config.keys.json_schema"


@pytest.mark.parametrize("kind", ["sft", "dpo", "pretrain"])
def test_init_writes_a_file_that_is_right_but_for_the_names(place, kind, capsys):
    assert main(["init", kind]) == 0
    text = (place / f"{kind}.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=.trainwright.schema.json\n")
    for name in re.findall(r"\./[\w.-]+", text):
        Path(name).mkdir(exist_ok=True)
    load_checked(place / f"{kind}.yaml")
    assert main(["init", kind]) == 2
    assert "exists; give another name" in capsys.readouterr().err


def test_a_missing_extra_is_told_at_check(place, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("trl", "peft") else found(name))
    said = errors_of(GOOD.replace("SFT", "TRL_SFT") + "  use_peft: true\n")
    assert "trainer_type TRL_SFT needs the package 'trl', which is not installed" in said
    assert "pip install 'trainwright[trl]'" in said
    assert "use_peft needs the package 'peft'" in said


def test_the_memory_of_a_run_is_estimated(place, capsys):
    from tests.tiny_language import make_place

    folder = make_place(place / "made")
    words = ["model.tokenizer_name=made/model", "training.per_device_train_batch_size=4", "training.optimizer=sgd"]
    sizes = ["hidden_size=64", "num_hidden_layers=2", "num_attention_heads=2", "intermediate_size=128"]
    words += [f"model.model_kwargs.{size}" for size in sizes]
    assert main(["check", "-c", "run.yaml", "--memory", "model.model_max_length=128", *words]) == 0
    out = capsys.readouterr().out
    assert re.search(r"tokens a step +512 at most", out)
    assert re.search(r"optimizer +0\.000 GB", out)
    assert folder.exists()


@pytest.mark.slow
def test_the_sizes_of_a_run_are_those_of_a_real_step(tmp_path, monkeypatch):
    """Parameters, gradients and the optimizer's state, measured while a step is trained."""
    import torch
    from transformers import TrainerCallback

    from trainwright.config.composition import build_trainer
    from trainwright.tasks.language.planning.memory import for_config

    class Sizes(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            self.gradients = size(p.grad for p in model.parameters() if p.grad is not None)

        def on_step_end(self, args, state, control, optimizer=None, **kwargs):
            kept = [value for of_one in optimizer.state.values() for value in of_one.values()]
            self.optimizer = size(value for value in kept if isinstance(value, torch.Tensor) and value.dim())
            self.average = size(trainer.ema.weights.values()) if trainer.ema is not None else 0

    def size(tensors):
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    monkeypatch.setenv("TRAINWRIGHT_JOBS", "off")
    place = tiny.make_place(tmp_path / "place")
    tiny.new_model(hidden_size=16).save_pretrained(place / "small")
    dpo, lora, bfloat16 = {"trainer_type": "DPO"}, {"use_peft": True}, {"torch_dtype_str": "bfloat16"}
    small = {"trainer_kwargs": {"ref_model": str(place / "small")}}
    cases = [
        ({}, {}, {}), (bfloat16, {}, {}), ({"freeze_layers": ["model.layers", "lm_head"]}, {}, {}),
        (bfloat16, {"ema_decay": 0.9}, {}), (bfloat16, lora, {}), ({}, lora, {"lora_modules_to_save": ["lm_head"]}),
        ({}, {"optimizer": "sgd"}, {}), ({}, {"optimizer": "sgd", "sgd_momentum": 0.9}, {}),
        (bfloat16, dpo, {}), ({}, {}, {}), ({}, dpo | small, {}), ({}, dpo | lora, {}),
        ({}, dpo | lora, {"lora_init_weights": "pissa"}),
        ({}, dpo | {"trainer_kwargs": {"precompute_ref_log_probs": True}}, {}),
    ]  # fmt: skip
    for number, (model, training, peft) in enumerate(cases):
        data = "preference" if number >= 8 else "text"  # the tenth file does not say what it is for
        given = tiny.settings(place, data, **{"max_steps": 1, "output_dir": str(tmp_path / str(number)), **training})
        given["model"] |= model
        config = load(tiny.write_yaml(tmp_path / "run.yaml", {**given, "peft": peft})).config
        said, trainer, seen = for_config(config), build_trainer(config), Sizes()
        trainer.add_callback(seen)
        reference = getattr(trainer.objective, "reference", None)
        trainer.train()
        kept = [*trainer.model.parameters(), *(reference.parameters() if reference is not None else ())]
        real = (size(kept) + seen.average, seen.gradients, seen.optimizer)
        assert (said.weights, said.gradients, said.optimizer) == real, cases[number]


def test_what_is_kept_for_the_backward_pass_is_what_a_real_one_keeps():
    import torch

    from trainwright.tasks.language.planning.memory import saved_bytes

    model = tiny.new_model()
    with torch.device("meta"):
        empty = type(model)(model.config)
    kept = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(torch.zeros(3, 40, dtype=torch.int64), use_cache=False)
    real = sum(size for size, _ in kept.values())
    assert saved_bytes(empty, 3, 40) == pytest.approx(real, rel=0.1)


def test_no_module_hides_a_function_of_the_package():
    import importlib
    import pkgutil

    from trainwright import config

    names = {module.name for module in pkgutil.iter_modules(config.__path__)}
    for name in names:
        importlib.import_module(f"trainwright.config.{name}")
    assert not names & set(config.__all__)


def test_a_job_tells_everything_that_its_file_gives(place):
    (place / "run.yaml").write_text(
        GOOD.replace("SFT", "DPO")
        + "  use_peft: true\n  trainer_kwargs: {beta: 5.0}\npeft: {lora_target_modules: [q_proj]}\n"
    )
    told = as_job.changed(load_checked(place / "run.yaml").config)
    assert told == {
        "data.train.datasets.0.dataset_name": "rows.jsonl", "model.load_pretrained_weights": False,
        "model.model_name": "llama", "peft.lora_target_modules": ["q_proj"], "training.learning_rate": 1e-5,
        "training.trainer_kwargs.beta": 5.0, "training.trainer_type": "DPO", "training.use_peft": True,
    }  # fmt: skip
