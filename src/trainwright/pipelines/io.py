"""`IOPipeline`: lexer, tokenizer, datasets and collator of a task, from `cfg.data`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trainwright.config.keys.task_uses import ALGEBRA, MODELS, use
from trainwright.config.reading.ranges import check_values
from trainwright.config.sections import check_keys, plain, required
from trainwright.errors import ConfigError, DataError
from trainwright.tasks.algebra.batches import EncoderDecoderBatch
from trainwright.tasks.algebra.data import PICKLES, Problems, cached, shared_problems, unknown_answers
from trainwright.tasks.algebra.expressions import NotAPolynomial
from trainwright.tasks.algebra.forms import Checker
from trainwright.tasks.algebra.lexer import UNKNOWN, Lexer, NumberPolicy, read_lexer
from trainwright.tasks.algebra.preprocess import described, is_described_by_value, read_preprocessor, reader
from trainwright.tasks.algebra.problems import task_named

ABOUT = "pipeline.json"  # in a run's folder


def _key(name: str, default: Any = None) -> Any:
    """Return a property: the value of a key of the section `data`, which may be set until `build`."""

    def written(pipeline: IOPipeline, value: Any) -> None:
        pipeline.config[name] = value
        check_values(pipeline.config, "cfg.data")

    return property(lambda pipeline: pipeline.config.get(name, default), written)


class IOPipeline:
    """Builds the data side of a run.

    Attributes:
        config: the section `data`; its keys are attributes too.
        dataset_load_preprocessor: in place of the one that the section names; see `read_preprocessor`.
        io_dict: what `build` returned last; its entries are attributes too.
    """

    train_dataset_path, test_dataset_path = _key("train_dataset_path"), _key("test_dataset_path")
    train_dataset_jsonl, test_dataset_jsonl = _key("train_dataset_jsonl"), _key("test_dataset_jsonl")
    train_dataset_pickle, test_dataset_pickle = _key("train_dataset_pickle"), _key("test_dataset_pickle")
    num_train_samples, num_test_samples = _key("num_train_samples", -1), _key("num_test_samples", -1)
    use_jsonl, use_pickle, display_samples = (
        _key("use_jsonl", False),
        _key("use_pickle", False),
        _key("display_samples"),
    )
    validate_train_tokens = _key("validate_train_tokens", False)
    validate_test_tokens = _key("validate_test_tokens", True)

    def __init__(self, config: Any) -> None:
        self.config = plain(config, "cfg.data")
        check_keys(self.config, ALGEBRA["data"], "cfg.data")
        check_values(self.config, "cfg.data")
        for sentence in use(self.config, "data", MODELS[0]):
            print(f"Note: {sentence}", flush=True)
        self.dataset_load_preprocessor: Any = None
        self.io_dict: dict[str, Any] = {}

    @classmethod
    def from_config(cls, config: Any) -> IOPipeline:
        """Return the pipeline of a section `data`."""
        return cls(config)

    def build(self) -> dict[str, Any]:
        """Return tokenizer, train_dataset, test_dataset and data_collator.

        Raises:
            ConfigError, DataError: a key, a file or a token that is not there.
        """
        config, names = self.config, [self._source(split) for split in ("train", "test")]
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
        self.io_dict = {
            "tokenizer": tokenizer,
            "train_dataset": train_dataset,
            "test_dataset": test_dataset,
            "data_collator": EncoderDecoderBatch(tokenizer.pad_token_id),
        }
        return self.io_dict

    def __getattr__(self, name: str) -> Any:
        """Return an entry of `io_dict`."""
        if name in ("tokenizer", "train_dataset", "test_dataset", "data_collator"):
            built = self.__dict__.get("io_dict")
            if built:
                return built[name]
            raise AttributeError(f"'IOPipeline' object has no attribute '{name}' yet; call build() first")
        raise AttributeError(f"'IOPipeline' object has no attribute '{name}'")

    def _source(self, split: str) -> str:
        """Return the key that names the file of a split."""
        given = [kind for kind in ("pickle", "jsonl") if self.config.get(f"use_{kind}")]
        names = [f"{split}_dataset_{kind}" for kind in given]
        return next((name for name in names if self.config.get(name)), f"{split}_dataset_path")

    @property
    def _chosen(self) -> Any:
        return self.dataset_load_preprocessor or self.config.get("dataset_load_preprocessor")

    def _tokens(self, path: Path, split: str, lexer: Lexer) -> Problems:
        """Return the problems of a file as tokens."""
        read = reader(read_preprocessor(self._chosen, "cfg.data.dataset_load_preprocessor"))
        name = described(self._chosen)
        about = yaml.safe_dump(name) if is_described_by_value(name) else None
        count = int(self.config.get(f"num_{split}_samples") or -1)
        if self.config.get("use_pickle") and path.suffix not in PICKLES:
            raise ConfigError(f"cfg.data.use_pickle: '{path}' is no pickle by its name, which ends in {PICKLES[0]}.")
        what = {"train": "training data", "test": "test data"}[split]
        found = cached(path, count, lexer, about=about, read=read, what=what)
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
        checker = task_named(self.config["task"]).checker(lexer)
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


def load_lexer(given: Any, earlier: bool = False) -> Lexer:
    """Return the lexer of a file, or of a mapping.

    Args:
        earlier: what it does not say of numbers is what was done before a run's folder told it all.

    Raises:
        ConfigError: there is no such file, or it is none.
    """
    return read_lexer(complete(given, earlier), "lexer_config" if isinstance(given, Mapping) else str(given))


def complete(given: Any, earlier: bool = False) -> dict[str, Any]:
    """Return the content of a lexer's file, or of a mapping, with the whole number policy: what it does not say is
    CALT's.

    Raises:
        ConfigError: there is no such file, or it is no YAML.
    """
    content = given if isinstance(given, Mapping) else _read(Path(given).expanduser())
    policy = content.get("number_policy") or {}
    before = {"grouping": "right", "allow_float": False} if earlier or is_earlier(given) else {}
    return {**content, "number_policy": {**vars(NumberPolicy()), **before, **policy}}


def is_earlier(given: Any) -> bool:
    """Whether a lexer's file is in the folder of a run, and does not tell all that it does with numbers."""
    if isinstance(given, Mapping):
        return False
    path = Path(given).expanduser()
    return (path.parent / ABOUT).is_file() and "grouping" not in (_read(path).get("number_policy") or {})


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"cfg.data.lexer_config: there is no file '{path}' (looked for from {Path.cwd()}).")
    try:
        content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    return content
