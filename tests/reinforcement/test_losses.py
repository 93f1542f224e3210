"""Every loss against TRL's own code, on the same completions; and micro-batches against the whole."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.installed import with_trl
from tests.reinforcement.completions import GROUP, as_trl, generation
from trainwright.config.policy_options import CORRECTIONS, POLICY_LOSSES, GRPOOptions, RLOOOptions
from trainwright.models.head import language_head
from trainwright.models.kernels import packed_attention
from trainwright.objectives.language import FusedLoss
from trainwright.objectives.policy.objective import PolicyLoss
from trainwright.reinforcement.generation import joined

VARIANTS = {
    **{name: {"loss_type": name} for name in POLICY_LOSSES},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.1},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "luspo of sequences": {"loss_type": "luspo", "importance_sampling_level": "sequence"},
    "two-sided": {"loss_type": "dapo", "delta": 1.5, "epsilon": 0.1, "epsilon_high": 0.3},
    "kl": {"loss_type": "grpo", "beta": 0.1},
    "kl without ratio": {"loss_type": "dr_grpo", "beta": 0.1, "use_bias_correction_kl": False},
    "kl of sequences": {"loss_type": "grpo", "beta": 0.1, "importance_sampling_level": "sequence"},
    "high entropy": {"loss_type": "bnpo", "top_entropy_quantile": 0.4},
    "entropy bonus": {"loss_type": "grpo", "entropy_coef": 0.05},
    "off-policy mask": {"loss_type": "grpo", "off_policy_mask_threshold": 0.05},
    "truncated": {"loss_type": "dapo", "mask_truncated_completions": True},
    **{name: {"loss_type": "dapo", "sampler_correction": name} for name in CORRECTIONS},
    "vespo with correction": {"loss_type": "vespo", "sampler_correction": "token_truncate"},
}
MODEL_INPUTS = ("input_ids", "attention_mask", "labels")


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


def ours(model, options, batch, num_items=None, fused=True):
    objective = PolicyLoss(options)
    if fused and objective.fusable:
        objective.fused = FusedLoss(language_head(model))
    loss = objective.loss(model, batch, num_items)
    loss.value.backward()
    return loss, gradients(model)


@pytest.fixture(scope="module")
def trl_trainer(tmp_path_factory):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    args = GRPOConfig(
        str(tmp_path_factory.mktemp("trl")), per_device_train_batch_size=8, gradient_accumulation_steps=1,
        num_generations=4, max_completion_length=16, bf16=False, use_cpu=True, report_to=[],
        gradient_checkpointing=False,
    )  # fmt: skip
    data = Dataset.from_dict({"prompt": ["w3 w4"] * 8})
    trainer = GRPOTrainer(
        tiny.llama(), lambda completions, **_: [0.0] * len(completions), args, data, processing_class=tiny.tokenizer()
    )
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def set_up(trainer, options):
    """Let TRL's trainer be one of these options."""
    trainer.loss_type, trainer.beta = options.loss_type, options.beta
    trainer.epsilon_low, trainer.epsilon_high = options.epsilon, options.upper
    trainer.importance_sampling_level = options.importance_sampling_level
    trainer.top_entropy_quantile = options.top_entropy_quantile
    trainer.off_policy_mask_threshold = options.off_policy_mask_threshold
    trainer.entropy_coef, trainer._entropy_bonus_enabled = options.entropy_coef, bool(options.entropy_coef)
    trainer.temperature = options.temperature
    trainer.args.delta = options.delta
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = options.sampler_correction is not None
    trainer.args.use_bias_correction_kl = options.use_bias_correction_kl


def their_ratios(given, options):
    """TRL computes them where it generates with vLLM: section 'Sampler correction' of its documentation."""
    off = (given["old_per_token_logps"] - given["sampling_per_token_logps"]) * given["completion_mask"]
    ratios = (off.sum(1, keepdim=True) if options.sampler_correction.startswith("sequence") else off).exp()
    if options.sampler_correction.endswith("truncate"):
        return ratios.clamp(max=3.0)
    return torch.where(ratios > 3.0, 0.0, ratios)


@with_trl
@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_loss_gradient_and_metrics_are_those_of_trl(trl_trainer, name):
    options = GRPOOptions(**{"max_completion_length": 16, **VARIANTS[name]})
    made, chosen = generation(dtype=torch.float32), list(range(8))
    set_up(trl_trainer, options)
    trl_trainer._metrics["train"].clear()
    model = trl_trainer.model.train()
    given = as_trl(made, chosen, options.mask_truncated_completions)
    if options.sampler_correction is not None:
        given["importance_sampling_ratio"] = their_ratios(given, options)
    theirs = trl_trainer._compute_loss(model, given)
    theirs.backward()
    wanted = gradients(model)
    batch = made.batch(chosen, 0, options.mask_truncated_completions)
    loss, found = ours(tiny.llama().train(), options, batch)
    torch.testing.assert_close(loss.value.double(), theirs.double(), atol=1e-5, rtol=1e-5)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-4)
    logged = trl_trainer._metrics["train"]
    for key, value in loss.terms.items():
        assert float(value) == pytest.approx(logged[key][0], abs=1e-5), key
    assert "entropy" in loss.terms


@with_trl
@pytest.mark.slow
@pytest.mark.parametrize("masks", [False, True])
def test_rloo_is_that_of_trl(tmp_path, masks):
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    args = RLOOConfig(
        str(tmp_path), per_device_train_batch_size=8, gradient_accumulation_steps=1, num_generations=4,
        max_completion_length=16, bf16=False, use_cpu=True, report_to=[], gradient_checkpointing=False, beta=0.0,
    )  # fmt: skip
    data, rewards = Dataset.from_dict({"prompt": ["w3 w4"] * 8}), lambda completions, **_: [0.0] * len(completions)
    trainer = RLOOTrainer(tiny.llama(), rewards, args, data, processing_class=tiny.tokenizer())
    made, chosen = generation(dtype=torch.float32), list(range(8))
    given = as_trl(made, chosen, masks)
    given["old_logps"] = (given["old_per_token_logps"] * given["completion_mask"]).sum(1)
    made.reference = None
    model = trainer.model.train()
    theirs = trainer._compute_loss(model, given)
    theirs.backward()
    wanted = gradients(model)
    loss, found = ours(tiny.llama().train(), RLOOOptions(beta=0.0), made.batch(chosen, 0, masks))
    torch.testing.assert_close(loss.value.double(), theirs.double(), atol=1e-5, rtol=1e-5)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-4)
    for key, value in loss.terms.items():
        assert float(value) == pytest.approx(trainer._metrics["train"][key][0], abs=1e-5), key


@pytest.mark.parametrize("fused", [True, False])
def test_log_probabilities_are_those_of_the_temperature(fused):
    model, made = tiny.llama().double(), generation()
    objective = PolicyLoss(GRPOOptions(temperature=0.6))
    objective.fused = FusedLoss(language_head(model)) if fused else None
    batch = made.batch([5, 0], 0, False)
    found, entropy = objective.log_probs(model, {name: batch[name] for name in MODEL_INPUTS}, objective.fused)
    for row, number in enumerate([5, 0]):
        prompt, completion = made.prompts[number], made.completions[number]
        logits = model(torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1] / 0.6
        logs, place = logits.log_softmax(-1), slice(len(prompt) - 1, len(prompt) - 1 + len(completion))
        wanted = logs.gather(1, completion[:, None]).squeeze(1)
        torch.testing.assert_close(found[row, place], wanted, atol=1e-9, rtol=0)
        torch.testing.assert_close(
            entropy[row, place], -(logs.exp() * logs).sum(-1), atol=1e-5, rtol=0
        )  # noted in float32
        assert found[row].count_nonzero() == len(completion)


WHOLE = [name for name in VARIANTS if name not in ("bnpo", "high entropy", "entropy bonus")]  # means of a micro-batch


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_micro_batches_add_up_to_the_whole(name, size):
    options, made = GRPOOptions(**{"max_completion_length": 16, **VARIANTS[name]}), generation(3)
    count = 3 * GROUP
    masks, model = options.mask_truncated_completions, tiny.llama().double()
    whole, wanted = ours(model, options, made.batch(list(range(count)), 0, masks), count)
    total = 0.0
    for start in range(0, count, size):
        batch = made.batch(list(range(start, start + size)), 0, masks)
        loss = PolicyLoss(options, fused=FusedLoss(language_head(model))).loss(model, batch, count)
        loss.value.backward()
        total += loss.value.item()
    assert total == pytest.approx(whole.value.item(), abs=1e-12)
    for key, value in gradients(model).items():
        torch.testing.assert_close(value, wanted[key], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("mixes", [False, True])
def test_completions_of_a_prompt_share_what_is_computed_of_it(mixes):
    made, options, model = generation(3), GRPOOptions(loss_type="grpo"), tiny.llama()
    batch = made.batch(list(range(3 * GROUP)), 0, False)
    whole, wanted = ours(model, options, batch)
    packed_attention.register()
    model.set_attn_implementation(packed_attention.NAME)
    fused, widths = FusedLoss(language_head(model), packed_attention.FlatRows(torch.device("cpu"))), []
    embeddings = model.get_input_embeddings()
    embeddings.register_forward_hook(lambda part, given, output: widths.append(output.shape[1]))
    if mixes:  # tokens meet before they attend
        embeddings.register_forward_hook(lambda part, given, output: output + output.roll(1, dims=1))
    loss = PolicyLoss(options, fused=fused).loss(model, batch, None)
    loss.value.backward()
    prompts = sum(map(len, made.prompts[::GROUP])) if not mixes else sum(map(len, made.prompts))
    assert widths[-1] == sum(map(len, made.completions)) + prompts
    assert fused.shares is not mixes
    if not mixes:
        assert loss.value.item() == pytest.approx(whole.value.item(), abs=1e-6)
        for key, value in gradients(model).items():
            torch.testing.assert_close(value, wanted[key], atol=1e-6, rtol=0)  # float32, sums in another order


def test_completions_of_two_generations_make_one_micro_batch():
    one, other = generation(seed=1), generation(seed=2)
    both = joined([one.batch([0, 1], 0, False), other.batch([3], 0, False)], 0)
    model, options = tiny.llama().double(), GRPOOptions(loss_type="grpo", beta=0.1)
    loss, _ = ours(model, options, both)
    parts = [ours(model, options, made.batch(some, 0, False), 3)[0] for made, some in ((one, [0, 1]), (other, [3]))]
    assert loss.value.item() == pytest.approx(sum(part.value.item() for part in parts), abs=1e-12)


def test_a_micro_batch_without_a_token_that_counts_has_no_loss_and_no_gradient():
    made = generation()
    cut = [number for number, done in enumerate(made.finished) if not done]
    model, options = tiny.llama().double(), GRPOOptions(mask_truncated_completions=True)
    loss, found = ours(model, options, made.batch(cut, 0, True))
    assert loss.value.item() == 0
    assert all(not value.any() for value in found.values())
