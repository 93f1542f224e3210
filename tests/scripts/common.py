"""What every script begins and ends with: the command line, log level and seed, a checkpoint to go on from, and the
numbers that it logs and saves."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Any

import transformers
from transformers import HfArgumentParser, set_seed
from transformers.trainer_utils import get_last_checkpoint

logger = logging.getLogger(__name__)


@dataclass
class DataArguments:
    """What a script asks besides the training arguments."""

    max_train_samples: int | None = field(default=None, metadata={"help": "Rows to train on."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Rows to evaluate."})


def begin(kind: type, command: list[str]) -> tuple[Any, DataArguments, str | None]:
    """Return the arguments of a command line, and the checkpoint that the folder has."""
    args, data = HfArgumentParser((kind, DataArguments)).parse_args_into_dataclasses(args=command)
    if args.should_log:
        transformers.utils.logging.set_verbosity_info()
    level = args.get_process_log_level()
    logger.setLevel(level)
    transformers.utils.logging.set_verbosity(level)
    logger.warning(
        f"Process rank: {args.local_rank}, device: {args.device}, n_gpu: {args.n_gpu}, distributed training: "
        f"{args.parallel_mode.value == 'distributed'}, 16-bits training: {args.fp16}"
    )
    last = None
    if os.path.isdir(args.output_dir) and args.do_train:
        last = get_last_checkpoint(args.output_dir)
        if last is not None and args.resume_from_checkpoint is None:
            logger.info(f"Checkpoint detected, resuming training at {last}.")
    set_seed(args.seed)
    return args, data, last


def first(rows: Any, most: int | None) -> Any:
    """Return the first rows of a dataset."""
    return rows if most is None else rows.select(range(min(len(rows), most)))


def finish(
    trainer: Any,
    args: Any,
    last: str | None,
    train: Any = None,
    evaluation: dict[str, Any] | None = None,
    prediction: Any = None,
    **card: Any,
) -> dict[str, float]:
    """Train, evaluate and predict as the command line says; return all numbers."""
    everything: dict[str, float] = {}
    if args.do_train:
        checkpoint = args.resume_from_checkpoint if args.resume_from_checkpoint is not None else last
        result = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        metrics = {**result.metrics, "train_samples": len(train)}
        trainer.log_metrics("train", metrics)
        trainer.save_metrics("train", metrics)
        trainer.save_state()
        everything |= metrics
    if args.do_eval:
        metrics = trainer.evaluate(metric_key_prefix="eval", **(evaluation or {}))
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
        everything |= metrics
    if args.do_predict:
        metrics = trainer.predict(prediction, metric_key_prefix="predict").metrics
        trainer.log_metrics("predict", metrics)
        trainer.save_metrics("predict", metrics)
        everything |= metrics
    if args.push_to_hub:
        trainer.push_to_hub(**card)
    else:
        trainer.create_model_card(**card)
    return everything
