"""`IOPipeline`: lexer, tokenizer, datasets and collator of a task, from `cfg.data`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trainwright.config.ranges import check_values
from trainwright.config.sections import check_keys, plain, required
from trainwright.config.task_uses import ALGEBRA, MODELS, use
from trainwright.errors import ConfigError, DataError
from trainwright.tasks.algebra.batches import EncoderDecoderBatch
from trainwright.tasks.algebra.data import Problems, cached, shared_problems, unknown_answers
from trainwright.tasks.algebra.expressions import NotAPolynomial
from trainwright.tasks.algebra.forms import Checker
from trainwright.tasks.algebra.lexer import UNKNOWN, Lexer, read_lexer
from trainwright.tasks.algebra.preprocess import described, is_described_by_value, read_preprocessor
from trainwright.tasks.algebra.problems import task_named


class IOPipeline:
    """Builds the data side of a run.

    Attributes:
        config: the section `data`.
        dataset_load_preprocessor: in place of the one that the section names; see `read_preprocessor`.
    """

    def __init__(self, config: Any) -> None:
        self.config = plain(config, "cfg.data")
        check_keys(self.config, ALGEBRA["data"], "cfg.data")
        check_values(self.config, "cfg.data")
        for sentence in use(self.config, "data", MODELS[0]):
            print(f"Note: {sentence}", flush=True)
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
        train_dataset, test_dataset = (
            self._tokens(Path(config[name]).expanduser(), split, lexer)
            for name, split in zip(names, ("train", "test"), strict=True)
        )
        shared = shared_problems(train_dataset, test_dataset)
        if shared:
            print(f"Note: {shared} of {len(test_dataset)} test problems are in the training data too.", flush=True)
        unknown = unknown_answers(test_dataset, tokenizer.unk_token_id)
        if unknown:
            print(
                f"Note: {unknown} of {len(test_dataset)} test answers hold {UNKNOWN}, so they count as wrong.",
                flush=True,
            )
        self._display(train_dataset, lexer, int(config.get("display_samples") or 0))
        train_dataset.description = test_dataset.description = {
            "config": {**config, "dataset_load_preprocessor": described(self._chosen)},
            "hashes": {"train": train_dataset.key, "test": test_dataset.key},
            "shared_problems": shared,
            "checker": self._checker(test_dataset, lexer),
        }
        return {
            "tokenizer": tokenizer,
            "train_dataset": train_dataset,
            "test_dataset": test_dataset,
            "data_collator": EncoderDecoderBatch(tokenizer.pad_token_id),
        }

    @property
    def _chosen(self) -> Any:
        return self.dataset_load_preprocessor or self.config.get("dataset_load_preprocessor")

    def _tokens(self, path: Path, split: str, lexer: Lexer) -> Problems:
        """Return the problems of a file as tokens."""
        change = read_preprocessor(self._chosen, "cfg.data.dataset_load_preprocessor") or (lambda pair: pair)
        name = described(self._chosen)
        about = yaml.safe_dump(name) if is_described_by_value(name) else None
        count = int(self.config.get(f"num_{split}_samples", -1))
        what = {"train": "training data", "test": "test data"}[split]
        found = cached(path, count, lexer, about, change, what)
        if len(found) < count:
            print(
                f"Note: cfg.data.num_{split}_samples is {count}, but '{path}' holds {len(found)} problems.", flush=True
            )
        return found

    def _checker(self, test: Problems, lexer: Lexer) -> Checker | None:
        """Return what decides by algebra about answers of the task that the section names; None where it names none.

        Raises:
            DataError: an answer of the test data is none that it can decide about.
        """
        if not self.config.get("task"):
            return None
        checker = task_named(self.config["task"]).checker(lexer.numbers.digit_group)
        for number in range(len(test)):
            ids = test[number]["target_ids"].tolist()
            try:
                if lexer.vocabulary.index(UNKNOWN) not in ids:
                    checker.form_of(lexer.decode(ids))
            except NotAPolynomial as error:
                raise DataError(
                    f"Row {number} of the test data: its answer {lexer.decode(ids)[:60]!r} cannot be read by the "
                    f"checker of cfg.data.task '{self.config['task']}' ({error}). Leave out `task` to count exact "
                    "answers alone."
                ) from None
        return checker

    def _display(self, dataset: Problems, lexer: Lexer, count: int) -> None:
        """Print the first rows, as the model reads them and writes them."""
        for row in (dataset[number] for number in range(min(count, len(dataset)))):
            print(f"{lexer.decode(row['input_ids'].tolist())} # {lexer.decode(row['target_ids'].tolist())}")


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
