"""The Trainer of a code model: corpus, tokenizer, model, and what is shown while it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainwright.args.training import TrainingArguments
from trainwright.callbacks.progress import PrinterCallback, ProgressCallback
from trainwright.errors import ConfigError
from trainwright.tasks.code.report import CodeReport
from trainwright.tasks.code.text import text_of
from trainwright.tasks.code.tokens import Blocks
from trainwright.trainer.trainer import Trainer

DEFAULTS = {"root": None, "vocab_size": 1024, "block_size": 256}
_OVERLAP = 4  # of a block that is evaluated, one part in so many is read again as what comes before


def build(model: Any, dataset: dict[str, Any], training: dict[str, Any]) -> Trainer:
    """Return the Trainer for a code model.

    Args:
        model: the section `model` of the run's file.
        dataset: root (folder of source files; Python's own when not given), vocab_size, block_size.
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
    text = text_of(options["root"], options["vocab_size"], Path(str(args.output_dir)))
    print(text.about, flush=True)
    tokenizer, length = text.tokenizer, options["block_size"]
    config = AutoConfig.for_model(
        model.model_name,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **model.model_kwargs,
    )
    report = CodeReport(text.held_out, tokenizer, len(text.held_out_tokens))
    trainer = Trainer(
        model_init=lambda: AutoModelForCausalLM.from_config(config),
        args=args,
        train_dataset=Blocks(text.train, length, length),
        eval_dataset=Blocks(text.held_out_tokens, length, length - length // _OVERLAP),
        processing_class=tokenizer,
    )
    for replaced in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(replaced)
    trainer.add_callback(report)
    return trainer
