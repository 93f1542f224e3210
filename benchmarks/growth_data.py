"""How the cost of data grows: packed rows, turns of a conversation, columns that nobody takes, lengths, tokens."""

from __future__ import annotations

import logging
import random
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks.growth import Line, Measure, timed

_WORDS = "the a cat dog sat on mat ran to house with red blue ball and then it was big small very happy sad".split()
_MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|im_end|>\n' }}{% endgeneration %}{% else %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
)


def text(words: int, seed: int = 0) -> str:
    """Return generated text."""
    rng = random.Random(seed)
    return " ".join(rng.choice(_WORDS) + str(rng.randrange(50)) for _ in range(words))


@cache
def tokenizer() -> Any:
    """Return a byte-level BPE of 2,000 tokens, with ChatML's marks."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|pad|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator([text(400, seed) for seed in range(50)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|pad|>")


# ---- packed rows

_CAPACITY, _READ = 1024, 200


def _documents(tokens: int) -> Any:
    """Return a table of about two million tokens, or one document, in documents of so many tokens."""
    import datasets
    import numpy as np
    import pyarrow as pa

    count = max(1, 2_000_000 // tokens)
    values = pa.array(np.arange(count * tokens, dtype=np.int32) % 2000)
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * tokens)
    column = pa.ListArray.from_arrays(offsets, values)
    return datasets.Dataset(pa.table({"input_ids": column, "labels": column}))


def _read(rows: Any) -> float:
    rng = random.Random(0)
    chosen = [rng.randrange(len(rows)) for _ in range(_READ)]
    rows[chosen[0]]  # what is done once
    with timed() as clock:
        for number in chosen:
            rows[number]
    return clock.seconds / _READ * 1e3


def packed(tokens: int, folder: Path) -> float:
    """Return the milliseconds of a packed row of ours."""
    from trainwright.data.sampling.packing import PackedRows
    from trainwright.data.token_rows import TokenRows

    return _read(PackedRows(TokenRows(_documents(tokens)), "wrapped", _CAPACITY))


def packed_by_trl(tokens: int, folder: Path) -> float:
    """Return those of a row that TRL has packed; packing it is not counted."""
    import trl

    return _read(trl.pack_dataset(_documents(tokens), _CAPACITY, "wrapped").with_format("torch"))


# ---- turns


def _conversation(turns: int) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[turn % 2], "content": text(12, turn)} for turn in range(turns)]


def turns(count: int, folder: Path) -> float:
    """Return the milliseconds of a conversation whose template has no marks, learned by turns."""
    from trainwright.data.sources.formats import Format
    from trainwright.data.text import chat
    from trainwright.data.text.tokenize import TextRules

    made, row = tokenizer(), {"messages": _conversation(count)}
    made.chat_template = chat.NAMED_TEMPLATES["chatml"]
    rules = TextRules(made, Format.MESSAGES, assistant_only=True)
    rules.row(row, 0)
    with timed() as clock:
        rules.row(row, 0)
    return clock.seconds * 1e3


def turns_by_marks(count: int, folder: Path) -> float:
    """Return those of transformers, which needs marks in the template."""
    made, row = tokenizer(), _conversation(count)
    given = {"chat_template": _MARKED, "return_dict": True, "return_assistant_tokens_mask": True}
    made.apply_chat_template(row, **given)
    with timed() as clock:
        made.apply_chat_template(row, **given)
    return clock.seconds * 1e3


# ---- tables

_BATCHES = 200


def _trainer(library_name: str, table: Any, folder: Path, **changes: Any) -> Any:
    """Return the Trainer of a library on a table, whose column `input_ids` alone its model takes."""
    import importlib

    import torch

    library = importlib.import_module(library_name)
    logging.disable(logging.WARNING)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": self.weight * input_ids.float().mean()}

    args = library.TrainingArguments(
        str(folder), use_cpu=True, disable_tqdm=True, report_to="none", save_strategy="no", **changes
    )
    return library.Trainer(Model(), args, train_dataset=table)


def unused(library: str) -> Measure:
    """Return what measures the milliseconds of a batch of 8 rows beside a column that the model does not take."""

    def run(floats: int, folder: Path) -> float:
        import datasets
        import numpy as np
        import pyarrow as pa

        count = 400
        values = pa.array(np.zeros(count * floats))
        wide = pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * floats), values)
        table = datasets.Dataset(pa.table({"input_ids": [[1, 2, 3, 4]] * count, "unused": wide}))
        loader = _trainer(library, table, folder).get_train_dataloader()
        with timed() as clock:
            for _ in range(_BATCHES * 8 // count):
                for _ in loader:
                    pass
        return clock.seconds / _BATCHES * 1e3

    return run


def lengths(library: str) -> Measure:
    """Return what measures the seconds until the first batch of rows of a table that are grouped by length."""

    def run(rows: int, folder: Path) -> float:
        import datasets
        import numpy as np
        import pyarrow as pa

        sizes = np.random.default_rng(0).integers(1, 60, rows)
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        values = pa.array(np.ones(offsets[-1], dtype=np.int64))
        table = datasets.Dataset(pa.table({"input_ids": pa.ListArray.from_arrays(pa.array(offsets), values)}))
        trainer = _trainer(
            library, table, folder, train_sampling_strategy="group_by_length", per_device_train_batch_size=1
        )
        with timed() as clock:
            next(iter(trainer.get_train_dataloader()))
        return clock.seconds

    return run


# ---- tokens

_DOCUMENT = 300  # words


def _texts(megabytes: int) -> list[str]:
    some = [text(_DOCUMENT, seed) for seed in range(64)]
    each = sum(map(len, some))
    return [f"{number} {one}" for number in range(max(1, megabytes * 1_000_000 // each)) for one in some]


def tokens(megabytes: int, folder: Path) -> float:
    """Return the seconds in which text becomes rows of tokens of ours."""
    import datasets

    from trainwright.data.sources.formats import Format
    from trainwright.data.text.prepare import prepare
    from trainwright.data.text.tokenize import TextRules

    table = datasets.Dataset.from_dict({"text": _texts(megabytes)})
    datasets.config.HF_DATASETS_CACHE = folder
    with timed() as clock:
        prepare({"a": (table, TextRules(tokenizer(), Format.TEXT))}, itemgetter(0), None, "text")
    return clock.seconds


def tokens_by_trl(megabytes: int, folder: Path) -> float:
    """Return those of TRL: what its trainer does with a table of texts."""
    import datasets
    import torch
    import transformers
    import trl

    table = datasets.Dataset.from_dict({"text": _texts(megabytes)})
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=2000, **sizes))
    args = trl.SFTConfig(str(folder), use_cpu=True, bf16=False, report_to="none", max_length=None)
    with timed() as clock:
        trl.SFTTrainer(model, args, train_dataset=table, processing_class=tokenizer())
    return clock.seconds


def tokens_by_tokenizer(megabytes: int, folder: Path) -> float:
    """Return those of the tokenizer's own `encode_batch`, whose result is dropped."""
    texts, backend = _texts(megabytes), tokenizer().backend_tokenizer
    with timed() as clock:
        for start in range(0, len(texts), 1000):
            backend.encode_batch(texts[start : start + 1000])
    return clock.seconds


LINES = [
    Line("a packed row of 1,024 tokens", "tokens of a document", (10_000, 100_000, 1_000_000, 10_000_000),
         {"trainwright": packed, "TRL": packed_by_trl}, "ms"),
    Line("a conversation, learned by turns", "turns", (8, 32, 128, 512),
         {"trainwright": turns, "transformers, by marks": turns_by_marks}, "ms"),
    Line("a batch beside an unused column", "numbers in a row", (10, 100, 1_000, 10_000),
         {"trainwright": unused("trainwright"), "transformers": unused("transformers")}, "ms"),
    Line("the first batch, grouped by length", "rows of a table", (10_000, 100_000, 1_000_000),
         {"trainwright": lengths("trainwright"), "transformers": lengths("transformers")}, rounds=1),
    Line("text to tokens", "MB", (1, 4, 16),
         {"trainwright": tokens, "TRL": tokens_by_trl, "the tokenizer alone": tokens_by_tokenizer}, rounds=1),
]  # fmt: skip
