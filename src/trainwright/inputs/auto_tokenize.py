"""Datasets that are text alone: a causal language model's Trainer turns them into tokens itself, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from trainwright.data.columns import column_names
from trainwright.data.introspection import has_state, is_stream
from trainwright.models import inspect as models
from trainwright.models.inspect import limits
from trainwright.session.session import Session

_TEXT = "text"
_LONGEST = 1_000_000  # tokenizers without a limit say 10^30


def tokenize(session: Session) -> None:
    """Turn sets with a column `text` and no input of the model into tokens, each text ending with the end token; the
    tokens are the labels.

    The tokenizer is the one that was given, or the one in the folder that the model was loaded from. Without one, or
    for a model that is no causal language model, everything stays as it is, and the error about the columns follows.
    """
    sets = session.eval_dataset if isinstance(session.eval_dataset, dict) else {"": session.eval_dataset}
    if not any(_is_text(session, rows) for rows in [session.train_dataset, *sets.values()]):
        return
    tokenizer = session.processing_class or _own_tokenizer(session.model)
    if tokenizer is None:
        return
    session.processing_class = tokenizer
    most = min(limits(session.model).get("positions", _LONGEST), getattr(tokenizer, "model_max_length", _LONGEST))
    session.train_dataset = _tokens(session, session.train_dataset, tokenizer, most)
    made = {name: _tokens(session, rows, tokenizer, most) for name, rows in sets.items()}
    session.eval_dataset = made if isinstance(session.eval_dataset, dict) else made[""]
    if session.data_collator is None:
        from trainwright.data.text.text_collators import PaddedBatch

        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        session.data_collator = PaddedBatch(pad or 0)
    session.note(f"The column 'text' was turned into tokens, at most {most} a row; they are the labels too.")


def _is_text(session: Session, dataset: Any) -> bool:
    """Whether a dataset has a column `text` and no input of the model, a causal language model."""
    names = column_names(dataset) if dataset is not None else None
    taken = set(session.signature_columns or ()) - set(session.label_names)
    if not names or _TEXT not in names or "input_ids" not in taken or taken.intersection(names):
        return False
    if is_stream(dataset) and not has_state(dataset):
        return False
    return models.shifts_labels(session.model) and isinstance(next(iter(dataset))[_TEXT], str | None)


def _own_tokenizer(model: torch.nn.Module) -> Any:
    """Return the tokenizer in the folder that the model was loaded from, or None."""
    folder = Path(getattr(models.base_model(model), "name_or_path", "") or "")
    if not str(folder) or not (folder / "tokenizer_config.json").is_file():
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


def _tokens(session: Session, dataset: Any, tokenizer: Any, most: int) -> Any:
    """Return rows of tokens, by the rules for texts in a file: each ends with the end token."""
    if not _is_text(session, dataset):
        return dataset
    from trainwright.data.sources.formats import Format
    from trainwright.data.text.text_stream import BlockStream
    from trainwright.data.text.tokenize import TextRules

    rules = TextRules(tokenizer, Format.TEXT, max_length=most)
    if is_stream(dataset):
        return BlockStream(dataset, rules, None, buffer=0, seed=session.args.seed)
    rows = [rules.row(dataset[number], number)["input_ids"] for number in range(len(dataset))]
    return [{"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(ids), dtype=torch.int64),
             "labels": torch.tensor(ids)} for ids in rows]  # fmt: skip
