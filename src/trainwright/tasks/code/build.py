"""The Trainer of a code model: corpus, tokenizer, model, and what is shown while it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainwright.args.training import TrainingArguments
from trainwright.callbacks.progress import PrinterCallback, ProgressCallback
from trainwright.data.python_source import python_source
from trainwright.engine.trainer import Trainer
from trainwright.errors import ConfigError
from trainwright.tasks.code.report import CodeReport
from trainwright.tasks.code.tokens import Blocks, encode, train_tokenizer
from trainwright.tasks.code.yardsticks import yardsticks

DEFAULTS = {"root": None, "vocab_size": 512, "block_size": 256, "eval_blocks": 256}


def build(model: Any, dataset: dict[str, Any], training: dict[str, Any]) -> Trainer:
    """Return the Trainer for a code model.

    Args:
        model: the section `model` of the run's file.
        dataset: root (folder of source files; Python's own when not given), vocab_size, block_size, eval_blocks.
        training: arguments.

    Raises:
        ConfigError: an unknown key, or weights that would have to be loaded.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    import trainwright.tasks.code.model  # noqa: F401  makes ngram_llama known

    unknown = sorted(set(dataset) - set(DEFAULTS))
    if unknown:
        raise ConfigError(f"dataset_kwargs has no key '{unknown[0]}'; it has {', '.join(DEFAULTS)}.")
    if model.load_pretrained_weights:
        raise ConfigError("A code model starts from random weights: set model.load_pretrained_weights: false.")
    options = {**DEFAULTS, **dataset}
    args = TrainingArguments(**training)
    corpus = python_source(Path(options["root"]) if options["root"] else None)
    print(
        f"{sum(map(len, corpus.train)) / 1e6:.1f} MB of Python source in {len(corpus.train)} files of {corpus.origin}; "
        f"{len(corpus.held_out)} other files are held out.",
        flush=True,
    )
    tokenizer = train_tokenizer(corpus.train, options["vocab_size"])
    held_out = encode(tokenizer, corpus.held_out)
    length = options["block_size"]
    config = AutoConfig.for_model(
        model.model_name,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **model.model_kwargs,
    )
    report = CodeReport(
        yardsticks(corpus.held_out), len(held_out), corpus.held_out_bytes, Blocks(held_out, length, length // 2)
    )
    trainer = Trainer(
        model_init=lambda: AutoModelForCausalLM.from_config(config),
        args=args,
        train_dataset=Blocks(encode(tokenizer, corpus.train), length, length),
        eval_dataset=Blocks(held_out[: options["eval_blocks"] * length], length, length),
        processing_class=tokenizer,
    )
    for replaced in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(replaced)
    trainer.add_callback(report)
    report.trainer = trainer
    return trainer
