"""Packing: the bins are TRL's, the numbers those of unpacked rows, and a stream is packed like a dataset."""

from __future__ import annotations

import random
from operator import itemgetter

import datasets
import numpy as np
import pytest
import torch

from tests import tiny_language as tiny
from trainwright import Trainer, TrainingArguments
from trainwright.data import contents
from trainwright.data.sampling.packing import PackedRows, best_fit, wrapped
from trainwright.data.sources.formats import Format
from trainwright.data.text.prepare import prepare
from trainwright.data.text.text_collators import FlatBatch, PaddedBatch
from trainwright.data.text.text_stream import BlockStream
from trainwright.data.text.tokenize import TextRules
from trainwright.data.token_rows import TokenRows

CLOSE = 1e-5  # float32, sums in another order


class Documents:
    """Rows of random tokens of the given lengths."""

    def __init__(self, lengths):
        generator = torch.Generator().manual_seed(3)
        self.rows = [torch.randint(4, 320, (int(length),), generator=generator) for length in lengths]
        self.lengths = np.array(lengths)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.cut(index, 0, None)

    def cut(self, index, start, end):
        return {"input_ids": self.rows[index][start:end], "labels": self.rows[index][start:end].clone()}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
@pytest.mark.parametrize("count", [7, 300, 2300])
def test_the_bins_are_trls(strategy, count):
    trl = pytest.importorskip("trl", reason="trl is not installed")
    lengths = np.random.default_rng(count).integers(1, 90, count)
    documents = Documents(lengths)
    table = datasets.Dataset.from_list(
        [{name: value.tolist() for name, value in documents[i].items()} for i in range(count)]
    )
    theirs = trl.pack_dataset(table, 64, strategy)
    ours = PackedRows(documents, strategy, 64)
    assert len(ours) == len(theirs)
    for number in range(len(ours)):
        row = ours[number]
        assert row["input_ids"].tolist() == theirs[number]["input_ids"]
        if strategy != "wrapped":
            assert row["seq_lengths"] == theirs[number]["seq_lengths"]
    assert ours.lengths.tolist() == [len(row["input_ids"]) for row in theirs]


def test_no_token_is_lost_and_no_bin_overfull():
    lengths = np.random.default_rng(0).integers(1, 200, 500).tolist()
    for bins in (best_fit(lengths, 64, split=True), wrapped(lengths, 64)):
        assert max(sum(end - start for _, start, end in packed) for packed in bins) <= 64
        pieces = sorted(piece for packed in bins for piece in packed)
        assert sum(end - start for _, start, end in pieces) == sum(lengths)
        for before, piece in zip(pieces, pieces[1:], strict=False):
            assert piece[1] == (before[2] if before[0] == piece[0] else 0)
    kept = [piece for packed in best_fit(lengths, 64) for piece in packed]
    assert sorted(kept) == [(row, 0, min(length, 64)) for row, length in enumerate(lengths)]


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
def test_a_packed_row_reads_its_own_tokens_alone(monkeypatch, strategy):
    """Not the documents that they are cut out of: a pass over a long one would take the square of its length."""
    lengths = [3, 50_000, 7]
    table = datasets.Dataset.from_dict({name: [list(range(n)) for n in lengths] for name in ("input_ids", "labels")})
    packed = PackedRows(TokenRows(table), strategy, 64)
    converted, convert = [], torch.from_numpy
    monkeypatch.setattr(torch, "from_numpy", lambda array: converted.append(array.size) or convert(array))
    for number in random.Random(0).sample(range(len(packed)), min(len(packed), 9)):
        converted.clear()
        row = packed[number]
        assert sum(converted) == 2 * len(row["input_ids"]) <= 128
        place = 0
        for document, start, end in packed.bins[number]:
            assert row["input_ids"][place : place + end - start].tolist() == list(range(lengths[document]))[start:end]
            place += end - start


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
@pytest.mark.parametrize("learned", [1.0, 0.4], ids=["all", "some"])
def test_the_targets_of_packed_rows_are_all_counted(strategy, learned):
    """Also of documents that are cut into three pieces of one length."""
    generator = np.random.default_rng(0)
    lengths = [3, 192, 70, 64, 1, 20, 128, 150]
    labels = [np.where(generator.random(n) < learned, 5, -100).tolist() for n in lengths]
    rows = TokenRows(datasets.Dataset.from_dict({"input_ids": [list(range(n)) for n in lengths], "labels": labels}))
    rows.know(rows.targets("labels"), 0, "everything")
    packed = PackedRows(rows, strategy, 64)
    wanted = 0
    for pieces in packed.bins:
        for number, (row, start, end) in enumerate(pieces):
            first = start + 1 if number == 0 or strategy != "wrapped" else start
            wanted += sum(label != -100 for label in labels[row][first:end])
    found = packed.contents
    assert (found.learned, found.tokens, found.counted) == (wanted, int(packed.lengths.sum()), None)


MODELS = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": 12},
    "gemma2": {"head_dim": 16, "sliding_window": 12},
    "gemma3_text": {"head_dim": 16, "sliding_window": 12},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0},
    "gpt_neox": {"hidden_act": "gelu"},
}


def gradients(place, model, batches, **changes):
    """The loss and the gradients of one step over batches."""
    found = {}

    class Once(Trainer):
        def training_step(self, *given, **named):
            loss = super().training_step(*given, **named)
            found["loss"] = found.get("loss", 0.0) + loss.item()
            found["grads"] = [p.grad.clone() for p in self.model.parameters() if p.grad is not None]
            return loss

    args = TrainingArguments(
        str(place), max_steps=1, use_cpu=True, disable_tqdm=True, save_strategy="no", remove_unused_columns=False,
        per_device_train_batch_size=1, gradient_accumulation_steps=len(batches), train_sampling_strategy="sequential",
        **changes,
    )  # fmt: skip
    Once(model, args, train_dataset=batches, data_collator=lambda rows: rows[0]).train()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("fused", [True, False], ids=["ours", "transformers' attention"])
@pytest.mark.parametrize("kind", MODELS)
def test_packed_is_unpacked(tmp_path, kind, fused):
    documents = Documents([5, 40, 17, 30, 9, 23])
    alone = [PaddedBatch(1)([documents[i]]) for i in range(len(documents))]
    packed = PackedRows(documents, "bfd", 64)
    together = [FlatBatch()([packed[i] for i in range(len(packed))])]
    assert together[0]["input_ids"].shape == (1, 124)
    reference = gradients(tmp_path, tiny.new_model(kind, **MODELS[kind]), alone, use_fused_loss=False)
    ours = gradients(tmp_path, tiny.new_model(kind, **MODELS[kind]), together, use_fused_loss=fused)
    assert ours["loss"] == pytest.approx(reference["loss"], abs=CLOSE)
    for one, other in zip(ours["grads"], reference["grads"], strict=True):
        assert (one - other).abs().max() < CLOSE


def test_documents_do_not_see_each_other(tmp_path):
    documents = Documents([12, 20])
    changed = Documents([12, 20])
    changed.rows[0] = (changed.rows[0] + 7) % 300 + 4
    losses = []
    for rows in (documents, changed):
        batch = FlatBatch()([rows[0], rows[1]])
        batch["labels"][:, :12] = -100  # only the second document is learned
        losses.append(gradients(tmp_path, tiny.new_model(), [batch])["loss"])
    assert losses[0] == losses[1]


LINEAR = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "head_dim": 16,
}  # fmt: skip
EXPERTS = {
    "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip
MAMBA = {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 16}
LEAKING = {
    "qwen3_5_text": LINEAR,
    "qwen3_next": {**LINEAR, **EXPERTS},
    "mamba": {"state_size": 8},
    "mamba2": MAMBA,
    "rwkv": {"attention_hidden_size": 32, "context_length": 128},
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 48, "dropout": 0},
    "mpt": {"d_model": 32, "n_heads": 2, "n_layers": 2, "max_seq_len": 128},
    "bloom": {"n_head": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "falcon_h1": {f"mamba_{name}": value for name, value in {
        "d_ssm": 32, "n_heads": 4, "d_head": 8, "n_groups": 1, "d_state": 8, "chunk_size": 16}.items()},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fused", [True, False], ids=["ours", "transformers' attention"])
@pytest.mark.parametrize("kind", LEAKING)
def test_where_documents_would_see_each_other_they_are_padded(tmp_path, kind, fused, caplog):
    documents = Documents([21, 33, 9, 40])
    reference = 0.0  # a loop of transformers' model over the documents, one by one
    model = tiny.new_model(kind, **LEAKING[kind])
    for number in range(4):
        ids = documents[number]["input_ids"][None]
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss * (ids.shape[1] - 1) / 99
        loss.backward()
        reference += loss.item()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    ours = gradients(
        tmp_path, tiny.new_model(kind, **LEAKING[kind]), [FlatBatch()([documents[i] for i in range(4)])],
        use_fused_loss=fused,
    )  # fmt: skip
    assert ours["loss"] == pytest.approx(reference, abs=CLOSE)
    for one, other in zip(ours["grads"], expected, strict=True):
        assert (one - other).norm() < 1e-4 * other.norm() + 1e-6  # float32: rwkv's gradients are large
    if (kind, fused) != ("opt", True):  # whose attention our own keeps apart
        assert caplog.text.count("Documents that came in one row are padded") == 1


def test_batches_of_a_recurrent_model_keep_their_padding(tmp_path, caplog):
    """Without packing a CPU has no padding; the check at the first batch would not see a leak of random weights."""
    documents, kind = Documents([12, 30, 7, 25]), "qwen3_next"
    rows = [documents[i] for i in range(4)]
    results = [
        gradients(tmp_path, tiny.new_model(kind, **LEAKING[kind]), [PaddedBatch(1)(rows)], use_fused_loss=fused)
        for fused in (True, False)
    ]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], abs=1e-6)  # float32
    for one, other in zip(results[0]["grads"], results[1]["grads"], strict=True):
        assert (one - other).abs().max() < CLOSE
    assert "Batches keep their padding: with several documents in one row, what stands in one" in caplog.text


def rules():
    return TextRules(tiny.new_tokenizer(), Format.TEXT)


@pytest.mark.slow
def test_a_stream_is_packed_like_a_dataset():
    table = datasets.Dataset.from_list(tiny.rows_of("text", 1300))
    packed = PackedRows(prepare({"a": (table, rules())}, itemgetter(0), None, "data").rows, "bfd", 96)
    streamed = list(BlockStream(table.to_iterable_dataset(), rules(), ("bfd", 96), buffer=0, seed=0))
    assert len(streamed) == len(packed)
    assert all(torch.equal(row["input_ids"], packed[i]["input_ids"]) for i, row in enumerate(streamed))


def test_every_pass_of_a_stream_is_shuffled_anew():
    table = datasets.Dataset.from_list(tiny.rows_of("text", 90))
    stream = BlockStream(table.to_iterable_dataset(), rules(), None, buffer=20, seed=5)
    plain = [rules().row(row, 0)["input_ids"] for row in table]
    passes = []
    for epoch in range(3):
        stream.set_epoch(epoch)
        passes.append([row["input_ids"].tolist() for row in stream])
        for start in range(0, 90, 20):  # rows are shuffled among the rows of their block
            assert sorted(passes[-1][start : start + 20]) == sorted(plain[start : start + 20])
    assert len({str(one[:20]) for one in passes}) == 3
    again = BlockStream(table.to_iterable_dataset(), rules(), None, buffer=20, seed=6)
    assert [row["input_ids"].tolist() for row in again] != passes[0]
    shuffled = BlockStream(table.to_iterable_dataset().shuffle(seed=3, buffer_size=90), rules(), None, buffer=0, seed=5)
    passes = []
    for epoch in range(3):  # the source is told the pass too
        shuffled.set_epoch(epoch)
        passes.append([row["input_ids"].tolist() for row in shuffled])
        assert sorted(passes[-1]) == sorted(plain)
    assert len({str(one) for one in passes}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("packing", [None, ("bfd", 64)])
def test_a_stream_goes_on_from_any_row(packing):
    table = datasets.Dataset.from_list(tiny.rows_of("text", 90))

    def stream():
        return BlockStream(table.to_iterable_dataset(), rules(), packing, buffer=20, seed=5)

    whole = [row["input_ids"].tolist() for row in stream()]
    if packing is None:
        assert sorted(whole) == sorted(rules().row(row, 0)["input_ids"] for row in table)
        assert whole != [rules().row(row, 0)["input_ids"] for row in table]
    for stop in random.Random(0).sample(range(1, len(whole)), 8):
        first, rows = stream(), []
        for row in first:
            rows.append(row)
            if len(rows) == stop:
                break
        second = stream()
        second.load_state_dict(first.state_dict())
        assert [row["input_ids"].tolist() for row in second] == whole[stop:]


def test_rows_that_lie_on_a_card_are_brought_to_the_host_where_their_tokens_are_counted():
    class OnACard:
        def cpu(self):
            return torch.tensor([5, 6])

    assert contents._array(OnACard()).tolist() == [5, 6]
