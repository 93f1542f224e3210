"""`IOPipeline`: lexer, tokenizer, datasets and collator of a task, from `cfg.data`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trainwright.errors import ConfigError
from trainwright.pipelines.sections import check_keys, plain, required
from trainwright.tasks.algebra.data import (
    PREPROCESSORS,
    EncoderDecoderBatch,
    Problems,
    content_hash,
    read_pairs,
    shared_problems,
)
from trainwright.tasks.algebra.lexer import Lexer, read_lexer

KEYS = (
    "lexer_config", "train_dataset_path", "test_dataset_path", "num_train_samples", "num_test_samples",
    "validate_train_tokens", "validate_test_tokens", "use_jsonl", "train_dataset_jsonl", "test_dataset_jsonl",
    "dataset_load_preprocessor", "display_samples",
)  # fmt: skip


class IOPipeline:
    """Builds the data side of a run.

    Attributes:
        config: the section `data`.
        dataset_load_preprocessor: `(problem, answer) -> (problem, answer)`, in place of the one that the section names.
    """

    def __init__(self, config: Any) -> None:
        self.config = plain(config, "cfg.data")
        check_keys(self.config, KEYS, "cfg.data")
        self.dataset_load_preprocessor: Any = None

    @classmethod
    def from_config(cls, config: Any) -> IOPipeline:
        """Return the pipeline of a section `data`."""
        return cls(config)

    def build(self) -> dict[str, Any]:
        """Return tokenizer, train_dataset, test_dataset and data_collator.

        Raises:
            ConfigError, DataError: a key, a file or a token that is not there.
        """
        config, jsonl = self.config, bool(self.config.get("use_jsonl"))
        names = [f"{split}_dataset_{'jsonl' if jsonl else 'path'}" for split in ("train", "test")]
        required(config, ["lexer_config", *names], "cfg.data")
        lexer = load_lexer(config["lexer_config"])
        tokenizer = lexer.tokenizer()
        change = self._preprocessor()
        counts = [int(config.get(f"num_{split}_samples", -1)) for split in ("train", "test")]
        train, test = (
            [change(pair) for pair in read_pairs(Path(config[name]).expanduser(), count)]
            for name, count in zip(names, counts, strict=True)
        )
        shared = shared_problems(train, test)
        if shared:
            print(f"Note: {shared} of {len(test)} test problems are in the training data too.", flush=True)
        for pair in train[: int(config.get("display_samples") or 0)]:
            print(f"{pair[0]} # {pair[1]}  ->  {lexer.to_token_text(pair[0])} # {lexer.to_token_text(pair[1])}")
        train_dataset = Problems(train, lexer, tokenizer, "training data")
        test_dataset = Problems(test, lexer, tokenizer, "test data")
        train_dataset.description = test_dataset.description = {  # type: ignore[attr-defined]
            "config": config,
            "hashes": {"train": content_hash(train), "test": content_hash(test)},
            "shared_problems": shared,
        }
        return {
            "tokenizer": tokenizer,
            "train_dataset": train_dataset,
            "test_dataset": test_dataset,
            "data_collator": EncoderDecoderBatch(tokenizer.pad_token_id),
        }

    def _preprocessor(self) -> Any:
        chosen = self.dataset_load_preprocessor or self.config.get("dataset_load_preprocessor")
        if chosen is None:
            return lambda pair: pair
        if callable(chosen):
            return chosen
        names = [chosen] if isinstance(chosen, str) else list(chosen)
        for name in names:
            if name not in PREPROCESSORS:
                raise ConfigError(
                    f"cfg.data.dataset_load_preprocessor '{name}' is not known; known: {', '.join(PREPROCESSORS)}, a "
                    "list of them, or a function set as the pipeline's dataset_load_preprocessor."
                )

        def chain(pair: Any) -> Any:
            for name in names:
                pair = PREPROCESSORS[name](pair)
            return pair

        return chain


def load_lexer(given: Any) -> Lexer:
    """Return the lexer of a file, or of a mapping.

    Raises:
        ConfigError: there is no such file, or it is none.
    """
    if isinstance(given, Mapping):
        return read_lexer(given, "lexer_config")
    path = Path(given).expanduser()
    if not path.is_file():
        raise ConfigError(f"cfg.data.lexer_config: there is no file '{path}' (looked for from {Path.cwd()}).")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    return read_lexer(content, str(path))
