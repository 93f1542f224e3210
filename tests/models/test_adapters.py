"""Adapters from a file: options are peft's, the base is what it was, and what is saved computes the same on it."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
import transformers

from tests import installed
from tests import tiny_language as tiny
from trainwright import ConfigError, Trainer, TrainingArguments
from trainwright.checkpoint.check import damage
from trainwright.checkpoint.model.adapters import save_merged
from trainwright.config import build
from trainwright.config.composition import build_trainer
from trainwright.config.reading.read import load_checked

peft = pytest.importorskip("peft", reason="peft is in the extra `llm`")
pytestmark = pytest.mark.slow

WIDE = {"initializer_range": 0.3}  # so that parts of the weights are seen in the loss
KINDS = {
    "llama": WIDE,
    "gpt2": {**WIDE, "n_positions": 512, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.5, "layerdrop": 0.5, "attention_dropout": 0.5},
    "falcon": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("adapters")
    for kind, changes in KINDS.items():
        tiny.new_model(kind, **changes).save_pretrained(place / kind)
        tiny.new_tokenizer().save_pretrained(place / kind)
    for kind in ("text", "preference"):
        tiny.write_rows(place / f"{kind}.jsonl", tiny.rows_of(kind))
    return place


def config_of(models, folder, peft=None, kind="llama", data="preference", options=None, **training):
    content = tiny.settings(models, data, output_dir=str(folder), **{"max_steps": 2, "learning_rate": 1e-2, **training})
    content["model"]["model_name"] = str(models / kind)
    content["training"] |= {"use_peft": peft is not None, "trainer_kwargs": options or {}}
    content["training"].setdefault("trainer_type", "DPO" if data == "preference" else "SFT")
    if peft is not None:
        content["peft"] = {"lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"], **peft}
    folder.parent.mkdir(parents=True, exist_ok=True)
    return load_checked(tiny.write_yaml(folder.with_suffix(".yaml"), content)).config


def trainer_of(*given, **changes):
    return build_trainer(config_of(*given, **changes))


def first_loss(trainer):
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    return entry["loss"], entry["rewards/chosen"]


IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits


# ---- dropout


@pytest.mark.parametrize("kind", ["llama", "opt", "falcon"])
@pytest.mark.parametrize("adapters", ["new", "of a folder", "none"])
def test_disabled_dropout_is_nowhere(models, tmp_path, kind, adapters):
    targets = ["query_key_value"] if kind == "falcon" else ["q_proj", "v_proj"]
    drops = {"lora_dropout": 0.5, "lora_target_modules": targets}
    if adapters == "of a folder":
        trainer_of(models, tmp_path / "first", drops, kind, save_strategy="no").save_model()
    content = config_of(models, tmp_path / "run", None if adapters == "none" else drops, kind)
    content.model.adapter_model = str(tmp_path / "first") if adapters == "of a folder" else None
    trainer = build_trainer(content)
    trainer.model.train()
    one, other = (trainer.model(input_ids=IDS).logits for _ in range(2))
    assert torch.equal(one, other)
    assert {part.p for part in trainer.model.modules() if isinstance(part, torch.nn.Dropout)} <= {0.0}
    loss, reward = first_loss(trainer)
    assert (loss, reward) == (pytest.approx(math.log(2), abs=1e-6), pytest.approx(0, abs=1e-5))
    if adapters == "none":
        trainer.save_model()
        saved = json.loads((tmp_path / "run" / "config.json").read_text())
        assert {name: saved[name] for name in saved if "dropout" in name and saved[name]} == {
            name: value for name, value in KINDS[kind].items() if "dropout" in name
        }  # what is trained without is not what the user's model is


def test_dropout_stays_where_it_is_asked_for(models, tmp_path):
    trainer = trainer_of(models, tmp_path / "run", {"lora_dropout": 0.5}, options={"disable_dropout": False})
    assert {part.p for part in trainer.model.modules() if isinstance(part, torch.nn.Dropout)} == {0.5}


# ---- options


LLAMA_LAYERS = [f"model.layers.{n}.self_attn.q_proj" for n in range(2)]
OPTIONS = {
    "rank-stabilised": ({"use_rslora": True}, {"use_rslora": True}),
    "DoRA": ({"use_dora": True}, {"use_dora": True}),
    "all linear layers": ({"lora_target_modules": "all-linear"}, {"target_modules": "all-linear"}),
    "in a list": ({"lora_target_modules": ["all-linear"]}, {"target_modules": "all-linear"}),
    "a pattern": ({"lora_target_modules": r".*\.[qk]_proj"}, {"target_modules": r".*\.[qk]_proj"}),
    "without": ({"lora_target_modules": "all-linear", "lora_exclude_modules": ".*mlp.*"},
                {"target_modules": "all-linear", "exclude_modules": ".*mlp.*"}),
    "whole modules": ({"lora_modules_to_save": ["lm_head"]}, {"modules_to_save": ["lm_head"]}),
    "patterns": ({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.1.*q_proj": 3.5}},
                 {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.1.*q_proj": 3.5}}),
    "sizes": ({"lora_r": 6, "lora_alpha": 24, "lora_dropout": 0.25}, {"r": 6, "lora_alpha": 24, "lora_dropout": 0.25}),
    "biases": ({"lora_bias": "lora_only"}, {"bias": "lora_only"}),
    "true": ({"lora_init_weights": True}, {}),
    "random": ({"lora_init_weights": "RANDOM"}, {"init_lora_weights": False}),
    "false": ({"lora_init_weights": False}, {"init_lora_weights": False}),
    **{name: ({"lora_init_weights": name}, {"init_lora_weights": name})
       for name in ("gaussian", "orthogonal", "mica", "olora", "pissa", "pissa_niter_2")},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_those_of_peft(models, tmp_path, name):
    installed.skip_what_peft_lacks(name)
    ours, theirs = OPTIONS[name]
    given = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **theirs}
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_pretrained(models / "llama")
    expected = peft.get_peft_model(base, peft.LoraConfig(**given))
    model = trainer_of(models, tmp_path / "run", ours, data="text", seed=0).model
    assert model.peft_config["default"].to_dict() == expected.peft_config["default"].to_dict()
    assert [one for one, _ in model.named_parameters()] == [one for one, _ in expected.named_parameters()]
    shapes = [[(tuple(p.shape), p.requires_grad) for p in one.parameters()] for one in (model, expected)]
    assert shapes[0] == shapes[1]
    layers = dict(expected.named_modules())
    for path, part in model.named_modules():
        if hasattr(part, "lora_A"):
            assert (part.scaling, part.use_dora) == (layers[path].scaling, layers[path].use_dora)


def test_all_linear_layers_and_another(models, tmp_path):
    targets = ["all-linear", "embed_tokens"]
    model = trainer_of(models, tmp_path / "run", {"lora_target_modules": targets}, data="text").model
    base = transformers.AutoModelForCausalLM.from_pretrained(models / "llama")
    linear = peft.get_peft_model(base, peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    expected = {name for name, part in linear.named_modules() if hasattr(part, "lora_A")}
    found = {name for name, part in model.named_modules() if hasattr(part, "lora_A")}
    assert found == expected | {"base_model.model.model.embed_tokens"}


WRONG = {
    "eva": ({"lora_init_weights": "eva"}, "'eva' looks at the data first"),
    "loftq": ({"lora_init_weights": "LoftQ"}, "'loftq' quantises the base itself"),
    "unknown": ({"lora_init_weights": "pizza"}, "'pizza' is not known"),
    "iterations": ({"lora_init_weights": "pissa_niter_many"}, "'pissa_niter_many' is not known"),
    "rank": ({"rank_pattern": {"q_proj": 0}}, "rank_pattern gives 0 for 'q_proj'"),
    "alpha": ({"alpha_pattern": {"q_proj": "2"}}, "alpha_pattern gives '2' for 'q_proj'"),
    "too many": ({"lora_r": 64, "lora_init_weights": "pissa"}, "pissa begins with a part of rank 64 of .*_proj"),
    "odd": ({"lora_r": 3, "lora_init_weights": "orthogonal"}, "rank to be even"),
    "no such layer": ({"lora_target_modules": ["query"]}, "lora_target_modules: the model has no layer 'query'"),
    "one of two": ({"lora_target_modules": ["q_proj", "v_projj"]}, "no layer 'v_projj'. Did you mean 'v_proj'?"),
    "one to save": ({"lora_modules_to_save": ["embed_tokenss"]}, "modules_to_save: the model has no layer 'embed_tok"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_said(models, tmp_path, name):
    given, said = WRONG[name]
    with pytest.raises(ConfigError, match=said):
        trainer_of(models, tmp_path / "run", given, data="text")


def test_olora_of_layers_that_peft_reads_the_wrong_way_round_is_refused(models, tmp_path):
    wanted = {"lora_target_modules": ["c_proj"], "lora_init_weights": "olora"}
    with pytest.raises(ConfigError, match=r"olora does not fit transformer\.h\.0\.attn\.c_proj, a Conv1D"):
        trainer_of(models, tmp_path / "run", wanted, kind="gpt2", data="text")


# ---- the reference


BEGIN_AS_THE_BASE = ["default", "gaussian", "orthogonal", "mica", "olora", "pissa", "pissa_niter_4"]


@pytest.mark.parametrize("start", BEGIN_AS_THE_BASE)
@pytest.mark.parametrize("computed_before", [False, True])
def test_the_reference_is_the_base_as_it_was(models, tmp_path, start, computed_before):
    installed.skip_what_peft_lacks(start)
    options = {"precompute_ref_log_probs": computed_before}
    loss, reward = first_loss(trainer_of(models, tmp_path / "run", {"lora_init_weights": start}, options=options))
    assert (loss, reward) == (pytest.approx(math.log(2), abs=1e-5), pytest.approx(0, abs=1e-4))


def reference_of(trainer):
    objective = trainer.objective
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(2)])
    return objective.reference_log_probs(trainer.model, objective.model_inputs(batch))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("opt", {"lora_bias": "all"}),
        ("opt", {"lora_bias": "lora_only"}),
        ("gpt2", {"lora_bias": "all", "lora_target_modules": ["c_attn"]}),
        ("gpt2", {"lora_init_weights": "pissa", "lora_target_modules": ["c_attn", "c_proj"]}),
        ("llama", {"lora_modules_to_save": ["lm_head"]}),
        ("llama", {"lora_init_weights": "olora", "use_dora": True}),
        ("llama", {"lora_modules_to_save": ["norm"], "lora_init_weights": "pissa"}),
    ],
)
def test_training_does_not_move_the_reference(models, tmp_path, kind, options):
    trainer = trainer_of(models, tmp_path / "run", options, kind)
    trainer.objective.fused = trainer.objective.fused_reference = None
    before = reference_of(trainer)
    base = transformers.AutoModelForCausalLM.from_pretrained(models / kind)
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(2)])
    rows = {name: batch[name].flatten(0, 1) for name in ("input_ids", "attention_mask", "labels")}
    chances = base(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits.double().log_softmax(-1)
    labels = rows["labels"][:, 1:]
    picked = chances[:, :-1].gather(-1, labels.clamp(min=0)[..., None])[..., 0] * (labels != -100)
    assert before == pytest.approx(picked.sum(-1).unflatten(0, (-1, 2)).detach(), rel=1e-5)
    trainer.train()
    trainer.objective.fused = trainer.objective.fused_reference = None
    assert torch.equal(reference_of(trainer), before)


# ---- what is saved


SAVED = {
    "OLoRA": {"lora_init_weights": "olora", "lora_alpha": 12},
    "PiSSA": {"lora_init_weights": "pissa"},
    "quick PiSSA": {"lora_init_weights": "pissa_niter_4", "lora_alpha": 16},
    "of ranks": {"lora_init_weights": "pissa_niter_2", "use_rslora": True, "rank_pattern": {"q_proj": 2},
                 "alpha_pattern": {r"layers\.1.*v_proj": 20}},
    "DoRA": {"lora_init_weights": "pissa_niter_2", "use_dora": True},
    "with an embedding": {"lora_init_weights": "pissa_niter_2", "lora_target_modules": ["q_proj", "embed_tokens"]},
    "and a whole layer": {"lora_init_weights": "pissa_niter_2", "lora_modules_to_save": ["lm_head"]},
    "MiCA": {"lora_init_weights": "mica"},
    "random": {"lora_init_weights": "random"},
}  # fmt: skip


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.parametrize("mode", ["ADAPTER_ONLY", "ADAPTER_AND_BASE_MODEL", "MERGED"])
def test_what_is_saved_computes_the_same_on_the_untouched_base(models, tmp_path, name, mode):
    installed.skip_what_peft_lacks(name)
    content = config_of(models, tmp_path / "out", {**SAVED[name], "peft_save_mode": mode}, data="text")
    content.training.save_final_model = True
    holder = build(content)
    untouched = transformers.AutoModelForCausalLM.from_pretrained(models / "llama")
    begun = logits(holder.trainer.model)
    holder.train()
    expected = logits(holder.trainer.model)
    assert (expected - begun).abs().max() > 0.05  # something was learned
    if mode == "MERGED":
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    else:
        below = untouched
        if mode == "ADAPTER_AND_BASE_MODEL":
            below = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "base_model")
            assert (logits(below) - logits(untouched)).abs().max() < 1e-4
        loaded = peft.PeftModel.from_pretrained(below, tmp_path / "out")
    assert (logits(loaded) - expected).abs().max() < 1e-4  # float32, of numbers up to 5


TIED = {
    "the embeddings of Llama": ("llama", {"target_modules": ["embed_tokens"]}),
    "its output layer": ("llama", {"target_modules": ["lm_head"]}),
    "both": ("llama", {"target_modules": ["embed_tokens", "lm_head"]}),
    "its embeddings as a whole": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "new rows": ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]}),
    "none of them": ("llama", {"target_modules": ["q_proj"]}),
    "the embeddings of GPT-2": ("gpt2", {"target_modules": ["wte"]}),
}


@pytest.mark.parametrize("name", TIED)
def test_merged_into_tied_weights_it_computes_the_same(tmp_path, name):
    kind, given = TIED[name]
    base = tiny.new_model(kind, tie_word_embeddings=True, **KINDS[kind])
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, task_type="CAUSAL_LM", **given))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    expected = logits(model)
    save_merged(model, tmp_path / "merged", tiny.new_tokenizer())
    assert torch.equal(logits(model), expected)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (logits(loaded) - expected).abs().max() < 1e-4
    kept = name in ("new rows", "none of them")
    assert loaded.config.tie_word_embeddings is kept
    assert (loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight) is kept


def test_merged_into_an_encoder_decoder_with_tied_weights(tmp_path):
    config = transformers.T5Config(
        vocab_size=20, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0, decoder_start_token_id=0
    )
    torch.manual_seed(0)
    model = peft.get_peft_model(
        transformers.T5ForConditionalGeneration(config), peft.LoraConfig(r=2, target_modules=["shared", "lm_head"])
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3
    ids = {"input_ids": IDS, "decoder_input_ids": IDS}
    with torch.no_grad():
        expected = model.eval()(**ids).logits
        save_merged(model, tmp_path / "merged", tiny.new_tokenizer())
        loaded = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged")
        assert (loaded.eval()(**ids).logits - expected).abs().max() < 1e-4


def test_saved_by_transformers_trainer_too(models, tmp_path):
    given = {"lora_init_weights": "pissa_niter_4"}
    content = config_of(models, tmp_path / "out", given, data="text", trainer_type="TRL_SFT", save_final_model=True)
    holder = build(content)
    holder.train()
    untouched = transformers.AutoModelForCausalLM.from_pretrained(models / "llama")
    loaded = peft.PeftModel.from_pretrained(untouched, tmp_path / "out")
    assert (logits(loaded) - logits(holder.trainer.model)).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["OLoRA", "quick PiSSA", "of ranks", "DoRA", "MiCA"])
def test_a_run_goes_on_bitwise_from_its_checkpoint(models, tmp_path, name):
    installed.skip_what_peft_lacks(name)

    def run(folder, resume=None):
        trainer = trainer_of(models, folder, SAVED[name], data="text", max_steps=4, save_strategy="steps", save_steps=2)
        trainer.train(resume_from_checkpoint=resume)
        trainer.save_model(str(folder / "final"))
        return trainer

    straight = run(tmp_path / "straight")
    checkpoint = tmp_path / "straight" / "checkpoint-2"
    assert damage(checkpoint) is None
    resumed = run(tmp_path / "resumed", str(checkpoint))
    one, other = (trainer.model.state_dict() for trainer in (straight, resumed))
    assert all(torch.equal(one[part], other[part]) for part in one)
    untouched = transformers.AutoModelForCausalLM.from_pretrained(models / "llama")
    loaded = peft.PeftModel.from_pretrained(untouched, tmp_path / "resumed" / "final")
    assert (logits(loaded) - logits(straight.model)).abs().max() < 1e-4


def test_a_run_goes_on_where_its_adapters_would_begin_otherwise(models, tmp_path):
    def run(folder, seed, resume=None, steps=4):
        trainer = trainer_of(
            models, folder, SAVED["quick PiSSA"], data="text", max_steps=steps, save_strategy="steps", save_steps=2,
            seed=seed, lr_scheduler_type="constant",
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        trainer.save_model(str(folder / "final"))
        return trainer.model

    saved = run(tmp_path / "run", 1, steps=2)
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    loaded = run(tmp_path / "other", 2, str(tmp_path / "other" / "checkpoint-2"), steps=2)  # nothing is left to train
    assert (logits(loaded) - logits(saved)).abs().max() < 1e-4
    untouched = transformers.AutoModelForCausalLM.from_pretrained(models / "llama")
    final = peft.PeftModel.from_pretrained(untouched, tmp_path / "other" / "final")
    assert (logits(final) - logits(saved)).abs().max() < 1e-4


# ---- the configuration


def saved_cache(folder):
    return json.loads((folder / "config.json").read_text())["use_cache"]


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("options", [{}, {"packing": True}, {"padding_free": True}])
def test_a_configuration_that_training_needs_is_not_saved_over_the_users(models, tmp_path, own, options):
    content = config_of(models, tmp_path / "out", data="text", options=options, save_strategy="steps", save_steps=1)
    content.model.model_kwargs = {"use_cache": own}
    content.training.save_final_model = True
    holder = build(content)
    holder.train()
    assert saved_cache(tmp_path / "out") == saved_cache(tmp_path / "out" / "checkpoint-1") == own


def test_a_merged_model_has_the_users_configuration(models, tmp_path):
    content = config_of(models, tmp_path / "out", {"peft_save_mode": "MERGED"}, data="text", options={"packing": True})
    content.training.save_final_model = True
    build(content).train()
    assert saved_cache(tmp_path / "out") is True


@pytest.mark.parametrize("anew", [True, False])
def test_a_trained_model_has_its_configuration_again(tmp_path, anew):
    model = tiny.new_model()
    rows = [{"input_ids": torch.arange(5, 15), "labels": torch.arange(5, 15)}] * 8
    seen = []

    class Sees(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(kwargs["model"].config.use_cache)

    args = TrainingArguments(
        tmp_path, max_steps=2, save_steps=1, use_cpu=True, disable_tqdm=True, report_to="none", use_cache=False
    )
    given = {"model_init": lambda: model} if anew else {"model": model}
    trainer = Trainer(**given, args=args, train_dataset=rows, callbacks=[Sees()])
    trainer.train()
    trainer.save_model()
    model.save_pretrained(tmp_path / "own")
    assert seen == [False, False]
    assert model.config.use_cache is True
    assert saved_cache(tmp_path) == saved_cache(tmp_path / "checkpoint-1") == saved_cache(tmp_path / "own") is True
    model.config.use_cache = False  # the user's own wish, from here on
    trainer.save_model()
    assert saved_cache(tmp_path) is False
