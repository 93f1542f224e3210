"""The encoder-decoder of `model_type: generic` against torch's and transformers' own parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainwright.tasks.algebra.models.models import POSITIONS
from trainwright.tasks.algebra.models.transformer import ProblemTransformer, ProblemTransformerConfig, angles, turned

KINDS = POSITIONS["generic"]
SIZES = {"vocab_size": 20, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 48, "max_position_embeddings": 32,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}  # fmt: skip
CLOSE = 1e-5  # float32: only the order of additions differs


def model(positions, **more):
    torch.manual_seed(0)
    return ProblemTransformer(ProblemTransformerConfig(positions=positions, init_std=0.3, **SIZES, **more)).eval()


def batch():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 20, (4, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    answer = torch.randint(3, 20, (4, 7), generator=generator)
    return ids, mask, answer


@pytest.mark.parametrize("positions", KINDS)
def test_padding_is_never_seen_and_the_future_neither(positions):
    made, (ids, mask, answer) = model(positions), batch()
    with torch.no_grad():
        whole = made(ids, mask, answer).logits
        alone = made(ids[1:2, :6], mask[1:2, :6], answer[1:2]).logits
        changed = made(ids.masked_fill(mask == 0, 7), mask, answer).logits
        start = made(ids, mask, answer[:, :4]).logits
    assert torch.equal(whole, changed)
    torch.testing.assert_close(whole[1:2], alone, atol=CLOSE, rtol=0)
    torch.testing.assert_close(whole[:, :4], start, atol=CLOSE, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("positions", KINDS)
def test_the_cache_changes_nothing(positions, tmp_path):
    made, (ids, mask, _) = model(positions), batch()
    settings = {"attention_mask": mask, "max_length": 20, "do_sample": False}
    written = made.generate(ids, **settings)
    assert torch.equal(written, made.generate(ids, use_cache=False, **settings))
    assert made.generate(ids, num_beams=3, **settings).shape[0] == 4
    made.save_pretrained(tmp_path)
    again = ProblemTransformer.from_pretrained(tmp_path).eval()
    assert torch.equal(written, again.generate(ids, **settings))


def test_positions_tell_the_order_and_none_does_not():
    ids = torch.tensor([[1, 5, 6, 7, 2]])
    for positions in KINDS:
        made = model(positions)
        with torch.no_grad():
            one, other = (made.encoder(x)[0] for x in (ids, ids.flip(1)))
        same = torch.allclose(one, other.flip(1), atol=1e-4)
        assert same == (positions == "none"), positions


@pytest.mark.parametrize("positions", KINDS)
def test_the_first_token_of_a_problem_is_at_position_zero(positions):
    encoder, ids = model(positions).encoder, torch.tensor([[5, 6, 7]])
    encoder.layers = nn.ModuleList()
    x = encoder.tokens(ids) * 32**0.5
    if positions == "learned":
        x = x + encoder.positions.weight[:3]
    if positions == "sinusoidal":
        at = angles(3, 32, 0, torch.device("cpu"))
        x = x + torch.cat([at.sin(), at.cos()], dim=-1)
    # float32, which the norm makes up to ten times larger; a position more or less is 0.1 and above
    torch.testing.assert_close(encoder(ids)[0], encoder.norm(x), atol=1e-4, rtol=0)


def test_a_layer_is_torchs():
    made = model("none")
    ours, config = made.encoder.layers[0], made.config
    theirs = nn.TransformerEncoderLayer(config.d_model, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    attention = ours.attention
    parts = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        pairs = [(theirs.self_attn.out_proj, attention.out), (theirs.linear1, ours.up), (theirs.linear2, ours.down)]
        for one, other in [*pairs, (theirs.norm1, ours.attention_norm), (theirs.norm2, ours.ffn_norm)]:
            one.load_state_dict(other.state_dict())
        x = torch.randn(3, 6, config.d_model)
        torch.testing.assert_close(ours(x, None, None), theirs(x), atol=CLOSE, rtol=0)


def test_positions_are_transformers():
    from transformers import LlamaConfig, MarianConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
    from transformers.models.marian.modeling_marian import MarianMTModel

    place = torch.arange(3, 9)[None]
    cos, sin = LlamaRotaryEmbedding(LlamaConfig(hidden_size=32, num_attention_heads=2))(torch.zeros(1), place)
    query = torch.randn(2, 2, 6, 16)
    wanted, _ = apply_rotary_pos_emb(query, query, cos, sin)
    at = angles(6, 16, 3, torch.device("cpu"))
    torch.testing.assert_close(turned(query, (at.cos(), at.sin())), wanted, atol=CLOSE, rtol=0)

    sizes = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    marian = MarianMTModel(MarianConfig(vocab_size=20, d_model=32, pad_token_id=0, **sizes))
    table = marian.model.encoder.embed_positions.weight[3:9]
    at = angles(6, 32, 3, torch.device("cpu"))
    torch.testing.assert_close(torch.cat([at.sin(), at.cos()], dim=-1), table, atol=CLOSE, rtol=0)


def test_the_loss_is_that_of_its_logits():
    made, (ids, mask, answer) = model("rope"), batch()
    labels = answer.masked_fill(torch.rand(answer.shape) < 0.3, -100)
    with torch.no_grad():
        out = made(ids, mask, answer, labels=labels)
        wanted = nn.functional.cross_entropy(out.logits.double().flatten(0, 1), labels.flatten())
    assert abs(out.loss.item() - wanted.item()) < CLOSE
