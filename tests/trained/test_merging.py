"""Merging and exporting: what is written computes what it was made of, and lies alone in its folder."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.trained.conftest import LORA, config_of, trained_run
from trainwright import CheckpointError, ConfigError
from trainwright.config.composition import ConfiguredTrainer
from trainwright.trained.folders import find
from trainwright.trained.loading import load
from trainwright.trained.making import merging
from trainwright.trained.making.exporting import export
from trainwright.trained.making.merging import merge_adapter

peft = pytest.importorskip("peft", reason="peft is in the extra `llm`")
pytestmark = pytest.mark.slow

IDS = torch.arange(4, 40)[None]
ROUNDING = 1e-5  # of logits below 1 in float32


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def by_peft(folder, base):
    """The logits of an adapter on its base, by peft alone."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    return logits(peft.PeftModel.from_pretrained(model, folder))


def test_a_merged_model_is_its_base_with_the_adapter(lora, place, tmp_path):
    merged = merge_adapter(find(lora), tmp_path / "merged")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again), by_peft(lora, place / "model"), atol=ROUNDING, rtol=0)
    assert merged.agreement.error < ROUNDING < merged.agreement.effect
    assert not list((tmp_path / "merged").glob("adapter*"))
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "merged").eos_token == "<|end|>"


def test_a_checkpoint_whose_adapter_began_in_the_base_merges_as_the_finished_one(pissa, place, tmp_path):
    merge_adapter(find(pissa / "checkpoint-6"), tmp_path / "merged")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again), by_peft(pissa, place / "model"), atol=ROUNDING, rtol=0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert "<|im_start|>" in tokenizer.chat_template


def test_by_default_a_merged_model_lies_in_the_run_by_the_name_of_what_it_is(lora, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(lora, run)
    assert merge_adapter(find(run)).folder == run / "merged"
    assert merge_adapter(find(run / "checkpoint-3")).folder == run / "merged-checkpoint-3"
    with pytest.raises(ConfigError, match="'.*/merged' is there already"):
        merge_adapter(find(run))
    assert merge_adapter(find(run), anew=True).folder == run / "merged"
    found = find(run / "merged")
    assert (found.run, found.is_adapter) == (run, False)
    assert not list(run.glob(".*"))


def test_nothing_but_a_model_gives_way(lora, whole, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for place in (whole, whole / "checkpoint-3", tmp_path / "mine", tmp_path):
        with pytest.raises(ConfigError, match="Give another folder"):
            merge_adapter(find(lora), place, anew=True)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_a_model_that_computes_something_else_is_not_written(lora, tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "merge", lambda model: model.unload())  # forgets the adapter
    with pytest.raises(CheckpointError, match="failed: its logits, .* and rounding explains"):
        merge_adapter(find(lora), tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_a_merge_of_new_tokens_has_their_trained_rows(place, tmp_path):
    config = config_of(place, "tokens", peft={})
    config.model.new_special_tokens = ["<think>"]
    config.training.output_dir = str(tmp_path / "run")
    trainer = ConfiguredTrainer(config)
    trainer.train()
    merge_adapter(find(tmp_path / "run"), tmp_path / "merged")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    ids = torch.tensor([[5, 320, 7]])
    with torch.no_grad():
        expected = trainer.trainer.model.eval()(input_ids=ids).logits
        torch.testing.assert_close(again(input_ids=ids).logits, expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("saved", [["embed_tokens", "lm_head"], ["lm_head"], []])
def test_an_adapter_may_have_more_rows_than_its_tokenizer_has_tokens(place, tmp_path, saved):
    model = transformers.AutoModelForCausalLM.from_pretrained(place / "model")
    model.resize_token_embeddings(rows := 352)  # as people round it up
    config = peft.LoraConfig(
        r=4,
        target_modules=["q_proj", *(["lm_head"] if not saved else [])],
        modules_to_save=saved,
        task_type="CAUSAL_LM",
    )
    adapted = peft.get_peft_model(model, config)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    expected = logits(adapted)
    adapted.save_pretrained(tmp_path / "run")
    transformers.AutoTokenizer.from_pretrained(place / "model").save_pretrained(tmp_path / "run")
    merge_adapter(find(tmp_path / "run"), tmp_path / "merged")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert again.config.vocab_size == rows
    torch.testing.assert_close(logits(again), expected, atol=ROUNDING, rtol=0)


def test_a_classifier_is_merged_with_its_head(place, tmp_path):
    rows = [{"text": f"{word} cat", "label": word} for word in ("red", "blue", "green") * 4]
    (place / "classes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = trained_run(place, "classes", "classes", peft={}, trainer_type="CLASSIFY")
    model, _ = load(find(run))
    merge_adapter(find(run), tmp_path / "merged")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert again.config.num_labels == 3
    torch.testing.assert_close(logits(again), logits(model), atol=ROUNDING, rtol=0)


def test_a_run_that_is_merged_when_it_goes_on_keeps_no_adapter_beside_it(place, tmp_path):
    run = trained_run(place, "kept", peft={})
    config = config_of(place, "kept", peft={"peft_save_mode": "MERGED"})
    config.training.max_steps = 8
    ConfiguredTrainer(config).train(resume_from_checkpoint=True)
    assert (run / "model.safetensors").exists()
    assert not list(run.glob("adapter*"))
    assert not find(run).is_adapter


def test_an_export_comes_in_shards_with_a_card(lora, place, tmp_path):
    (lora / "run.json").write_text(
        json.dumps([{"command": f"trainwright train {place}/lora.yaml", "versions": {"torch": "2"}}])
    )
    made = export(find(lora), tmp_path / "model", shard="50KB")
    assert made.files > 2
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(logits(again), by_peft(lora, place / "model"), atol=ROUNDING, rtol=0)
    text = (tmp_path / "model" / "README.md").read_text()
    assert "trainwright train lora.yaml" in text
    for told in ("| completion.jsonl | train | training |", "| loss | ", f"peft.lora_r: {LORA['lora_r']}", "- torch 2"):
        assert told in text
    assert str(place) not in text


def test_an_adapter_is_exported_alone_as_it_is_used(pissa, place, tmp_path):
    export(find(pissa / "checkpoint-6"), tmp_path / "adapter", adapter=True)
    found = by_peft(tmp_path / "adapter", place / "model")
    torch.testing.assert_close(found, by_peft(pissa, place / "model"), atol=ROUNDING, rtol=0)
    assert "library_name: peft" in (tmp_path / "adapter" / "README.md").read_text()


def test_half_precision_is_compared_and_refused_where_it_does_not_fit(whole, tmp_path):
    made = export(find(whole), tmp_path / "half", dtype="float16")
    assert 0 < made.agreement.error < 0.05
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.float16
    shutil.copytree(whole, tmp_path / "run")
    weights = load_file(tmp_path / "run" / "model.safetensors")
    weights["model.norm.weight"][0] = 1e6
    save_file(weights, tmp_path / "run" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="model.norm.weight holds 1e.06, and float16 ends at 65504"):
        export(find(tmp_path / "run"), tmp_path / "other", dtype="float16")
