"""`trainwright check run.yaml`: every mistake that can be found before a model is loaded, all at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainwright.config.schema import TrainingConfig


def run(argv: Sequence[str]) -> int:
    """Look at a file and at the first rows of its data; say that it is right, or everything that is wrong with it."""
    parser = argparse.ArgumentParser(
        prog="trainwright check", usage="trainwright check FILE [--measure] [--memory] [KEY=VALUE ...]",
        description="Look for mistakes in a run's YAML file.",
    )  # fmt: skip
    parser.add_argument("-c", "--config", type=Path, help="the run's YAML file; -c may be left out")
    parser.add_argument("--measure", action="store_true", help="train some micro-steps, and tell the time of the run")
    parser.add_argument("--memory", action="store_true", help="estimate the memory and the tokens of a step")
    args, words = parser.parse_known_args(argv)

    from trainwright.cli.files import file_and_overrides
    from trainwright.config import methods
    from trainwright.config.reading.read import load_checked
    from trainwright.tasks.language.checking.first_rows import look

    file, overrides = file_and_overrides(args.config, words, "check")
    loaded = load_checked(file, overrides)
    notes = look(loaded)
    config = loaded.config
    if (config.fsdp.tensor is not None or config.training.use_peft) and is_here(config):
        from trainwright.tasks.language.planning.sizes import check_model

        check_model(config)
    kind = config.training.trainer_type
    length = config.training.max_steps
    many, one = (length, "step") if length > 0 else (config.training.num_train_epochs, "epoch")
    what = f"{many:g} {one}" + ("" if many == 1 else "s")
    who = kind or f"{' or '.join(one.name for one in methods.candidates(kind))}, by the data"
    print(f"{file} is valid: {who}, {config.model.model_name}, {what}.", flush=True)
    for note in [*notes, *elsewhere(config)]:
        print(note, file=sys.stderr, flush=True)
    if args.memory:
        from trainwright.tasks.language.planning.memory import describe, for_config

        print(describe(for_config(config)))
    elif args.measure or is_here(config):
        tell_plan(config, args.measure)
    return 0


def elsewhere(config: TrainingConfig) -> list[str]:
    """Return what to say of a model and tokenizer that are not on this machine, where no hub can be asked for them."""
    from huggingface_hub import try_to_load_from_cache

    from trainwright.config.keys.uses import OWN_MODELS
    from trainwright.config.reading.validation import BESIDE
    from trainwright.data.sources.reach import ask_at_once

    model, said = config.model, []
    given = {"tokenizer_name" if model.tokenizer_name else "model_name": model.tokenizer_name or model.model_name}
    given |= {"model_name": model.model_name} if model.load_pretrained_weights else {}
    named = {f"model.{key}": name for key, name in given.items()}
    kwargs = config.training.trainer_kwargs
    named |= {f"training.trainer_kwargs.{key}": kwargs[key] for key in BESIDE if kwargs.get(key) is not None}
    for key, name in named.items():
        if name in OWN_MODELS or Path(name or "").expanduser().exists():
            continue
        kept = False
        with suppress(ValueError):  # of a folder, which is no name of the hub
            kept = isinstance(try_to_load_from_cache(name or "", "config.json"), str)
        missing = "" if kept else ask_at_once(name)
        said += [f"{key} '{name}': {missing}"] if missing else []
    return said


def is_here(config: TrainingConfig) -> bool:
    """Whether the model of a run can be described without asking a hub, and its rows are such as are counted."""
    from trainwright.config.keys.uses import OWN_MODELS

    model = config.model
    places = [model.tokenizer_name or model.model_name, *([model.model_name] if model.load_pretrained_weights else [])]
    return model.model_name not in OWN_MODELS and all(one and Path(one).expanduser().is_dir() for one in places)


def tell_plan(config: TrainingConfig, measured: bool) -> None:
    """Say what the run will do and need."""
    from trainwright.cli.after.quiet import quiet
    from trainwright.tasks.language.planning import plan

    with quiet():
        if measured:
            print("Measuring some micro-steps ...", file=sys.stderr, flush=True)
        facts = list(plan.facts(config, plan.measure(config) if measured else None))
    if sys.stdout.isatty():
        from trainwright.terminal import draw_card

        draw_card(sys.stdout, "Plan", facts)
        return
    for name, text in facts:
        print(f"{name:<8} {text}")
