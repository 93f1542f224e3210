"""Every way to attend within documents gives the numbers of documents attended to alone, where a CPU can run it; for
kernels of a card a stand-in that reads the same arguments."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch.nn import functional

from tests import tiny
from trainwright.models.kernels import attention, packed_attention
from trainwright.models.kernels.attention import KERNELS, Attended, Documents, Passed, attend, default_kernel

LENGTHS = [5, 1, 90, 30]


def attended(key_heads=4, window=None, kind=torch.float64):
    torch.manual_seed(0)
    parts = [torch.randn(1, heads, sum(LENGTHS), 8, dtype=kind) for heads in (4, key_heads, key_heads)]
    return Attended(*(part.requires_grad_() for part in parts), scale=0.3, window=window)


def alone(a):
    """Return attention of every document by the definition, in loops of one query."""
    found, start = [], 0
    key, value = (part.repeat_interleave(4 // part.shape[1], 1)[0] for part in (a.key, a.value))
    for length in LENGTHS:
        for place in range(start, start + length):
            first = max(start, place + 1 - (a.window or length))
            scores = torch.einsum("hd,htd->ht", a.query[0, :, place], key[:, first : place + 1]) * a.scale
            found.append(torch.einsum("ht,htd->hd", scores.softmax(-1), value[:, first : place + 1]))
        start += length
    return torch.stack(found)[None]


def varlen(query, key, value, begins, ends, longest, longest_key, *, scale, window, grouped):
    """Attend as torch's and flash-attn's kernels say that they do; (tokens, heads, width)."""
    assert begins.dtype == torch.int32
    assert begins.tolist() == ends.tolist() == [0, 5, 6, 96, 126]
    assert longest == longest_key == max(LENGTHS)
    assert grouped == (query.shape[1] != key.shape[1])
    left, right = window
    found = []
    for start, end in zip(begins.tolist(), begins.tolist()[1:], strict=False):
        seen = torch.ones(end - start, end - start, dtype=torch.bool).tril(right)
        seen = seen if left < 0 else seen.triu(-left)
        parts = (part[start:end].transpose(0, 1)[None] for part in (query, key, value))
        found.append(functional.scaled_dot_product_attention(*parts, seen, scale=scale, enable_gqa=grouped)[0])
    return torch.cat([one.transpose(0, 1) for one in found])


def of_torch(*given, scale, window_size, enable_gqa):
    return varlen(*given, scale=scale, window=window_size, grouped=enable_gqa)


def of_flash(*given, dropout_p, softmax_scale, causal, window_size):
    assert causal
    assert dropout_p == 0
    window = (window_size[0], 0)
    return varlen(*given, scale=softmax_scale, window=window, grouped=given[0].shape[1] != given[1].shape[1])


@pytest.fixture
def kernels_of_a_card(monkeypatch):
    """Put functions that a CPU can run in the place of those that it cannot."""
    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = of_flash
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", of_torch)
    monkeypatch.setattr(attention, "_half_on_cuda", lambda a, package: None)


@pytest.mark.usefixtures("kernels_of_a_card")
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("kernel", ["documents", "mask", "varlen", "flash_attn"])
def test_kernels_give_the_attention_of_documents_alone_and_its_gradient(kernel, window, key_heads):
    ours, reference = attended(key_heads, window), attended(key_heads, window)
    found, expected = attend(ours, Documents(LENGTHS, kernel)), alone(reference)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)  # float64
    upstream = torch.randn_like(expected)
    gradients = (torch.autograd.grad(one, a[:3], upstream) for one, a in ((found, ours), (expected, reference)))
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 7])
def test_flex_attention_gives_the_same_forward(window):
    a = Attended(*(part.detach().float() for part in attended(2)[:3]), scale=0.3, window=window)
    found = attend(a, Documents(LENGTHS, "flex"))
    torch.testing.assert_close(found, alone(a), rtol=1e-4, atol=1e-5)  # float32; a CPU has no backward pass for it


def test_a_kernel_that_was_asked_for_says_why_it_cannot():
    with pytest.raises(ValueError, match="attention by 'varlen' cannot be had: it runs on CUDA, not on cpu"):
        attend(attended(), Documents(LENGTHS, "varlen"))


def test_a_card_has_the_kernel_that_was_recorded_as_passed_there_and_else_a_mask(monkeypatch):
    device = torch.device("cuda")
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert default_kernel(torch.device("cpu")) == "documents"
    assert default_kernel(device) == "mask"
    assert not packed_attention.FlatRows(device).unpads
    version = torch.__version__[:4]
    monkeypatch.setattr(attention, "PASSED", (Passed("flex", "NVIDIA H100", version),))
    assert default_kernel(device) == "flex"
    monkeypatch.setattr(attention, "PASSED", (Passed("varlen", "NVIDIA A100", version),))
    assert default_kernel(device) == "mask"
    assert all(one.kernel in KERNELS for one in attention.PASSED)


def test_where_a_cards_kernel_cannot_the_next_that_passed_there_attends(monkeypatch):
    """A mask of all tokens is the last resort: of rows whose padding was taken out it would be a large one."""
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch, "__version__", "2.11.0+cu130")
    names = attention.default_kernels(torch.device("cuda"))
    assert names == ["varlen", "documents", "mask"]
    monkeypatch.setattr(attention, "default_kernels", lambda device: names)
    monkeypatch.setitem(attention.KERNELS, "mask", None)
    ours, expected = (attend(attended(), Documents(LENGTHS, kernel)) for kernel in (None, "documents"))
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("kernel", ["documents", "mask"])
def test_a_model_gives_documents_in_one_row_what_they_have_alone(kernel):
    model = tiny.llama().double().eval()
    packed_attention.register()
    model.set_attn_implementation(packed_attention.NAME)
    rows = [torch.randint(3, tiny.VOCABULARY, (length,)) for length in (9, 4, 12)]
    positions = torch.cat([torch.arange(len(row)) for row in rows])[None]
    told = packed_attention.FlatRows(torch.device("cpu"), kernel).inputs([len(row) for row in rows])
    found = model(input_ids=torch.cat(rows)[None], position_ids=positions, **told).logits[0]
    expected = torch.cat([model(input_ids=row[None]).logits[0] for row in rows])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_rows_with_padding_at_their_ends_need_no_mask():
    model = tiny.llama(sliding_window=4).double().eval()
    packed_attention.register()
    model.set_attn_implementation(packed_attention.NAME)
    ids, mask = torch.randint(3, tiny.VOCABULARY, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[1, 5:] = 0
    found = model(input_ids=ids, **packed_attention.FlatRows(torch.device("cpu")).inputs(None)).logits
    expected = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-10, atol=1e-10)
