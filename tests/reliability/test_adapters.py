"""Adapters of every kind and name in checkpoints: several, switched, prompts, without PEFT's wrapper, mixed."""

from __future__ import annotations

import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests import tiny
from trainwright import CheckpointError, Trainer, TrainerCallback, TrainingArguments
from trainwright.checkpoint.model import adapters

peft = pytest.importorskip("peft", reason="peft is in the extra `llm`")

LORA = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", modules_to_save=["lm_head"])
ROWS = [{name: row[name] for name in ("input_ids", "labels")} for row in tiny.tokens(16)]


def one(config, name="tutor"):
    return lambda: peft.get_peft_model(tiny.llama(), config, name)


def two(active="second"):
    model = peft.get_peft_model(tiny.llama(), LORA)
    model.add_adapter("second", LORA)
    model.set_adapter(active)
    return model


def native():
    model = tiny.llama()
    try:
        model.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]), "first")
    except ValueError as error:
        pytest.skip(f"transformers {transformers.__version__} takes no adapters of peft {peft.__version__}: {error}")
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["v_proj"]), "second")
    return model


def mixed():
    model = peft.get_peft_model(tiny.llama(), LORA, "lora", mixed=True)
    model.add_adapter("loha", peft.LoHaConfig(r=2, target_modules=["v_proj"]))
    model.set_adapter(["lora", "loha"])
    return model


def more_than_the_adapter():
    model = one(peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))()
    model.get_base_model().model.norm.weight.requires_grad_(True)
    return model


PROMPTS = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3}
MODELS = {
    "the second of two": two,
    "of another name": one(LORA),
    "prompt tuning": one(peft.PromptTuningConfig(**PROMPTS), "default"),
    "an encoder of prompts": one(peft.PromptEncoderConfig(**PROMPTS, encoder_hidden_size=8)),
    "an encoder that drops": one(
        peft.PromptEncoderConfig(
            **PROMPTS, encoder_hidden_size=8, encoder_reparameterization_type="LSTM", encoder_dropout=0.5
        )
    ),
    "prefix tuning": one(peft.PrefixTuningConfig(**PROMPTS)),
    "projected prefixes": one(peft.PrefixTuningConfig(**PROMPTS, prefix_projection=True, encoder_hidden_size=8)),
    "some tokens": one(
        peft.TrainableTokensConfig(token_indices=[1, 2], target_modules=["embed_tokens"], task_type="CAUSAL_LM")
    ),
    "without PEFT's wrapper": native,
    "mixed": mixed,
    "a weight of the base too": more_than_the_adapter,
}


def made(place, model, library=None, **changes):
    settings = {
        "max_steps": 4, "save_steps": 2, "learning_rate": 0.01, "lr_scheduler_type": "constant", "use_cpu": True,
        "disable_tqdm": True, "report_to": "none",
    }  # fmt: skip
    kinds = (Trainer, TrainingArguments) if library is None else (library.Trainer, library.TrainingArguments)
    return kinds[0](model, kinds[1](str(place), **{**settings, **changes}), train_dataset=ROWS, eval_dataset=ROWS)


def same(one, other):
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_resumed_bitwise(tmp_path, kind):
    torch.manual_seed(1)
    straight = made(tmp_path, MODELS[kind]())
    straight.train()
    torch.manual_seed(2)  # other adapters, until those of the checkpoint are there
    resumed = made(tmp_path, MODELS[kind]())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert same(straight.model, resumed.model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["the second of two", "of another name", "prefix tuning"])
def test_a_run_of_transformers_goes_on(tmp_path, kind):
    torch.manual_seed(1)
    theirs = made(tmp_path, MODELS[kind](), transformers)
    theirs.train()
    torch.manual_seed(2)
    ours = made(tmp_path, MODELS[kind]())
    ours.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert same(theirs.model, ours.model)


class Switch(TrainerCallback):
    """Begins with the first adapter, and goes on with the second."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 1:
            model.set_adapter("second")


def test_saving_an_encoder_that_drops_draws_no_random_numbers(tmp_path):
    torch.manual_seed(0)
    model, before = MODELS["an encoder that drops"]().train(), torch.get_rng_state()
    for name in ("one", "other"):
        adapters.save(model, tmp_path / name)
    assert torch.equal(before, torch.get_rng_state())
    one, other = (load_file(next((tmp_path / name).rglob("*.safetensors"))) for name in ("one", "other"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(part.training for part in model.modules())


def test_adapters_that_were_switched_are_as_they_were(tmp_path):
    def run(seed, resume=None):
        torch.manual_seed(seed)
        model = two(active="default")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(part in name for part in ("lora_", "modules_to_save")))
        trainer = made(tmp_path, model)
        trainer.add_callback(Switch())
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model

    straight, resumed = run(1), run(2, str(tmp_path / "checkpoint-2"))
    assert resumed.active_adapters == ["second"]
    assert same(straight, resumed)


def test_the_best_is_taken_of_all_adapters(tmp_path):
    class Falling(Trainer):
        def evaluation_metrics(self, prefix):
            return {f"{prefix}_score": -self.state.global_step}

    args = TrainingArguments(
        str(tmp_path), max_steps=4, save_steps=2, eval_strategy="steps", eval_steps=2, load_best_model_at_end=True,
        metric_for_best_model="score", learning_rate=0.01, use_cpu=True, disable_tqdm=True, report_to="none",
    )  # fmt: skip
    trainer = Falling(two(), args, train_dataset=ROWS, eval_dataset=ROWS)
    trainer.train()
    best = peft.PeftModel.from_pretrained(tiny.llama(), tmp_path / "checkpoint-2")
    best.load_adapter(str(tmp_path / "checkpoint-2" / "second"), "second")
    assert same(trainer.model, best)


def test_an_adapter_that_the_checkpoint_lacks_is_named(tmp_path):
    made(tmp_path, two()).train()
    model = two()
    model.add_adapter("third", LORA)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"holds the adapters default, second, but .* third is not there"):
        made(tmp_path, model).train(resume_from_checkpoint=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("layers", [["q_proj", "v_proj"], ["gate_proj", "down_proj"]])  # square, high and wide
@pytest.mark.parametrize("start", ["olora", "pissa", "pissa_niter_4", "default"])
def test_adapters_that_began_as_a_part_of_the_base_are_saved_for_the_base_as_it_was(tmp_path, start, layers):
    settings = {"r": 2, "lora_alpha": 6, "target_modules": layers, "task_type": "CAUSAL_LM"}
    init = True if start == "default" else start
    trainer = made(tmp_path, peft.get_peft_model(tiny.llama(), peft.LoraConfig(**settings, init_lora_weights=init)))
    trainer.train()

    def logits(model):
        with torch.no_grad():
            return model.eval()(input_ids=torch.arange(3, 13)[None]).logits

    trainer.save_model(str(tmp_path / "first"))
    expected = logits(trainer.model)
    loaded = peft.PeftModel.from_pretrained(tiny.llama(), tmp_path / "first", is_trainable=True)
    assert (logits(loaded) - expected).abs().max() < 1e-5
    assert (logits(tiny.llama()) - expected).abs().max() > 1e-3
    second = made(tmp_path / "again", loaded)
    second.train()
    second.save_model(str(tmp_path / "second"))
    again = peft.PeftModel.from_pretrained(tiny.llama(), tmp_path / "second")
    assert (logits(again) - logits(second.model)).abs().max() < 1e-5


def test_adapters_that_were_trained_before_are_not_taken_for_untouched(tmp_path):
    settings = {"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    for start in ("olora", "pissa"):
        model = peft.get_peft_model(tiny.llama(), peft.LoraConfig(**settings, init_lora_weights=start))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter += 0.01 * ("lora_B" in name)
        trainer = made(tmp_path, model, max_steps=1)
        trainer.save_model(str(tmp_path / start))
        loaded = peft.PeftModel.from_pretrained(tiny.llama(), tmp_path / start)  # peft begins it likewise again
        ids = torch.arange(3, 13)[None]
        assert (loaded(input_ids=ids).logits - model.eval()(input_ids=ids).logits).abs().max() < 1e-5
