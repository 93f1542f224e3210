"""What others' trainers were reported to do wrong, tried on ours against rows that are computed alone, in float64."""

from __future__ import annotations

import pytest
import torch
import yaml

from tests import tiny_language
from tests.reinforcement import tiny_prompts as tiny
from trainwright.config.composition import build_trainer
from trainwright.config.reading.read import load_checked
from trainwright.trainer.face import session_of

pytestmark = pytest.mark.slow
HOT = 1.3  # the temperature


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny.make_place(tmp_path_factory.mktemp("reports"))


def trained(place, out, model=None, kwargs=None, peft=None, **training):
    """Return the Trainer after its steps, the generations that it made, and its weights before."""
    kwargs = {"reward_functions": [f"{place / 'rewards.py'}:letters"], "temperature": HOT, **(kwargs or {})}
    told = tiny.settings(place, output_dir=str(out), trainer_kwargs=kwargs, gradient_accumulation_steps=2)
    told["training"] |= {"max_steps": 1, "learning_rate": 1e-2, "use_peft": peft is not None, **training}
    told["model"] |= {"torch_dtype_str": "float64", **(model or {})}
    told |= {} if peft is None else {"peft": peft}
    (out / "run.yaml").write_text(yaml.safe_dump(told))
    trainer = build_trainer(load_checked(out / "run.yaml").config)
    stage, generations = session_of(trainer).stage, []
    made = stage._made
    stage._made = lambda run, number: generations.append(made(run, number)) or generations[-1]
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    return trainer, generations[0], before


def alone(model, generation, number):
    """Log-probabilities of a completion's tokens by the logits of its row alone."""
    prompt, written = generation.prompts[number], generation.completions[number]
    logits = model(torch.cat([prompt, written])[None]).logits[0, len(prompt) - 1 : -1] / HOT
    return logits.log_softmax(-1).gather(1, written[:, None]).squeeze(1)


def test_the_reference_of_an_adapter_that_was_trained_is_that_adapter(place, tmp_path):
    """TRL's is the base model in several reports, so that the divergence begins far from 0."""
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=4, task_type="CAUSAL_LM")
    start = peft.get_peft_model(tiny_language.new_model(max_position_embeddings=128), settings)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in start.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    start.save_pretrained(tmp_path / "adapter")
    trainer, generation, _ = trained(
        place, tmp_path, {"adapter_model": str(tmp_path / "adapter")}, {"beta": 0.3}, peft={}
    )
    assert trainer.state.log_history[0]["kl"] == pytest.approx(0, abs=1e-12)
    with torch.no_grad():
        for number in range(4):
            wanted = alone(start.double().eval(), generation, number)
            assert torch.allclose(generation.reference[number], wanted, atol=1e-12, rtol=0)


def test_prompts_of_several_lengths_move_no_log_probability_of_a_model_with_learned_positions(place, tmp_path):
    model = tiny_language.new_model("gpt2", n_positions=128, n_embd=32, n_layer=2, n_head=2)
    with torch.no_grad():
        model.transformer.wpe.weight.mul_(30)
    model.save_pretrained(tmp_path / "model")
    tiny_language.new_tokenizer().save_pretrained(tmp_path / "model")
    trainer, generation, before = trained(
        place, tmp_path, {"model_name": str(tmp_path / "model")}, {"num_iterations": 2}
    )
    assert len({len(prompt) for prompt in generation.prompts}) > 1
    trainer.model.load_state_dict(before)
    trainer.model.eval()
    with torch.no_grad():
        for number in range(8):
            wanted = alone(trainer.model, generation, number)
            assert torch.allclose(generation.old[number], wanted, atol=1e-12, rtol=0)
            assert torch.allclose(generation.sampler[number].double(), wanted, atol=1e-5, rtol=0)  # kept in float32


def test_a_step_is_that_of_single_rows_where_the_end_token_pads(place, tmp_path):
    """The gradient of the first step, in which every ratio is 1, though the loss says nothing."""
    tokenizer = tiny_language.new_tokenizer()
    tiny_language.new_model(max_position_embeddings=128).save_pretrained(tmp_path / "model")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "model")
    trainer, generation, before = trained(
        place, tmp_path, {"model_name": str(tmp_path / "model")},
        {"loss_type": "dapo", "temperature": HOT, "max_completion_length": 60}, optim="sgd", learning_rate=1.0,
        max_grad_norm=0.0,
    )  # fmt: skip
    assert bool(generation.finished.any())
    after = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.model.load_state_dict(before)
    trainer.model.eval()
    trainer.model.zero_grad()
    total = sum(
        -(generation.advantages[number] * (own - own.detach()).exp()).sum()
        for number in range(8)
        for own in [alone(trainer.model, generation, number)]
    )
    (total / sum(map(len, generation.completions))).backward()
    for name, parameter in trainer.model.named_parameters():
        assert torch.allclose(before[name] - parameter.grad, after[name], atol=1e-12, rtol=0), name
