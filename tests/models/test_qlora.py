"""QLoRA by bitsandbytes, which also runs on a CPU: trained, saved, resumed, merged from a file."""

from __future__ import annotations

import shutil

import pytest
import torch

from tests import tiny_language as tiny
from trainwright.config.composition import build_trainer
from trainwright.config.reading.read import load_checked
from trainwright.models.quantized import keep_backward

pytest.importorskip("bitsandbytes", reason="bitsandbytes is in the extra `quant`")
peft = pytest.importorskip("peft", reason="peft is in the extra `llm`")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

IDS = torch.arange(4, 40)[None]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qlora")
    tiny.new_model(hidden_size=64, intermediate_size=128, initializer_range=0.2).save_pretrained(folder / "model")
    tiny.new_tokenizer().save_pretrained(folder / "model")
    tiny.write_rows(folder / "text.jsonl", tiny.rows_of("text", 4))
    return folder


def trainer_of(place, out, bits=4, **training):
    content = tiny.settings(place, "text", output_dir=str(out), **{
        "trainer_type": "SFT", "use_peft": True, "max_steps": 6, "save_strategy": "steps", "save_steps": 3,
        "logging_steps": 1, "learning_rate": 1e-2, **training,
    })  # fmt: skip
    content["model"]["model_name"] = str(place / "model")
    content["peft"] = {"q_lora": True, "q_lora_bits": bits, "lora_r": 4, "lora_target_modules": ["all-linear"]}
    if bits == 4:
        content["peft"]["bnb_4bit_quant_type"] = "nf4"
    out.parent.mkdir(parents=True, exist_ok=True)
    return build_trainer(load_checked(tiny.write_yaml(out.with_suffix(".yaml"), content)).config)


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()


@pytest.fixture(scope="module")
def trained(place):
    trainer = trainer_of(place, place / "run" / "out")
    trainer.train()
    return trainer


def test_weights_of_4_bits_stay_and_adapters_learn(trained):
    assert losses(trained)[-1] < losses(trained)[0]
    kinds = {type(part).__name__ for part in trained.model.modules()}
    assert "Linear4bit" in kinds
    assert {p.dtype for p in trained.model.parameters() if p.requires_grad} == {torch.float32}
    assert all("lora" in name for name, p in trained.model.named_parameters() if p.requires_grad)


def test_a_run_goes_on_with_the_same_bits(trained, place, tmp_path):
    shutil.copytree(place / "run" / "out", tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "checkpoint-6")
    again = trainer_of(place, tmp_path / "out")
    again.train(resume_from_checkpoint=True)
    assert losses(again) == losses(trained)
    pairs = zip(again.model.named_parameters(), trained.model.named_parameters(), strict=True)
    assert all(torch.equal(one, other) for (_, one), (_, other) in pairs)


def test_an_evaluation_leaves_the_backward_pass_whole(place, tmp_path):
    """Processors with bfloat16 pack weights of 4 bits for inference, after which they had no gradient."""
    found = []
    for evaluates in (False, True):
        trainer = trainer_of(place, tmp_path / str(evaluates), save_strategy="no")
        if evaluates:
            trainer.evaluate(trainer.train_dataset)
        trainer.train()
        found.append(losses(trainer))
    assert found[0] == found[1]


def test_what_is_saved_are_adapters_for_the_quantised_model_and_for_the_whole_one(trained, place):
    def on(**options):
        base = transformers.AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32, **options)
        return peft.PeftModel.from_pretrained(base, place / "run" / "out" / "checkpoint-6")

    four = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    quantised = on(quantization_config=four)
    keep_backward(quantised)
    torch.testing.assert_close(logits(quantised), logits(trained.model), rtol=1e-4, atol=1e-4)
    whole = on()
    expected = logits(whole)
    torch.testing.assert_close(logits(whole.merge_and_unload()), expected, rtol=1e-4, atol=1e-4)
