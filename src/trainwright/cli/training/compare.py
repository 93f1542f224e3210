"""`trainwright compare run.yaml --engines SFT,TRL_SFT,HF`: the same file with several engines, side by side."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from trainwright.cli.numbers import at_least
from trainwright.errors import ConfigError


def run(argv: Sequence[str]) -> int:
    """Train a file with every engine in turns; print losses, speed and memory, and write a PNG and a JSON."""
    parser = argparse.ArgumentParser(
        prog="trainwright compare", description="Compare engines on one file.",
        usage="trainwright compare FILE [--engines A,B,...] [--steps N] [--rounds N] [--out FOLDER] [KEY=VALUE ...]",
    )  # fmt: skip
    parser.add_argument("-c", "--config", type=Path, help="the run's YAML file; -c may be left out")
    parser.add_argument(
        "--engines", help="names of trainer types, the first is the measure (all that minimise the same)"
    )
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps of every engine (30)")
    parser.add_argument("--rounds", type=at_least(1), default=2, help="how often every engine runs, in turns (2)")
    parser.add_argument("--out", type=Path, default=Path("comparison"), help="folder of comparison.png and .json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args, words = parser.parse_known_args(argv)

    from trainwright.cli.files import file_and_overrides, to_write
    from trainwright.config import methods
    from trainwright.config.reading.read import load_checked
    from trainwright.upstream import compare as comparing

    file, overrides = file_and_overrides(args.config, words, "compare")
    config = load_checked(file, overrides).config
    if args.one is not None:
        return _one(file, overrides, args.one, args.steps)
    asked = (args.engines or "").split(",")
    engines = [name.strip().upper() for name in asked if name.strip()]
    engines = engines or comparing.engines_of(config.training.trainer_type)
    comparing.check_comparable(engines)
    refused: dict[str, str] = {}
    for engine in engines:
        try:
            load_checked(file, [*overrides, f"training.trainer_type={engine}"])
        except ConfigError as error:
            refused[engine] = str(error)
    able = [engine for engine in engines if engine not in refused]
    if not able or any(one not in methods.known() for one in engines):
        raise ConfigError("\n".join(refused.values()))
    if args.steps <= comparing.WARM:
        raise ConfigError(f"--steps {args.steps} is too few: the first {comparing.WARM} are not timed.")
    to_write(args.out / "comparison.json")
    results, failed = comparing.compare(file, overrides, able, args.steps, args.rounds)
    print(comparing.table(results))
    for sentence in comparing.not_the_same(config, list(results)):
        print(f"Not the same: {sentence}.")
    for engine, why in {**refused, **failed}.items():
        print(f"Not compared: {engine}, for {why}")
    picture = comparing.draw(args.out / "comparison.png", results)
    plain = {engine: [asdict(one) for one in runs] for engine, runs in results.items()}
    (args.out / "comparison.json").write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    print(f"Written: {picture}, {args.out / 'comparison.json'}")
    return 0


def _one(file: Path, overrides: list[str], engine: str, steps: int) -> int:
    """Train with one engine in this process, and print what came of it as the last line."""
    from trainwright.config.composition import build
    from trainwright.config.reading.read import load_checked
    from trainwright.upstream import compare as comparing

    config = load_checked(file, overrides).config
    with tempfile.TemporaryDirectory() as folder:
        same = comparing.frozen(config, engine, steps, folder)
        print(json.dumps(asdict(comparing.run_one(same, build))))
    return 0
