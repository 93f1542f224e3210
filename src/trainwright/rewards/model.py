"""Reward models: sequence classifiers with one score, such as REWARD trains, called in the run's process."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from trainwright.errors import ConfigError

WHERE = f"{__name__}:score"
_CONFIG = "config.json"


def is_model(name: str) -> bool:
    """Whether a reward's name is that of a model: a folder, or owner/name on the hub."""
    return ":" not in name and not name.endswith(".py") and ("/" in name or Path(name).is_dir())


def check_model(name: str) -> None:
    """Raise a ConfigError where a folder holds no model with one score; of a name on the hub nothing is known before it
    is loaded."""
    file = Path(name) / _CONFIG
    if not file.is_file():
        if Path(name).is_dir() or name.startswith((".", "/")):
            merge = (Path(name) / "adapter_config.json").is_file()
            told = "an adapter; `trainwright merge` makes a whole model of it" if merge else f"no {_CONFIG}"
            raise ConfigError(f"The reward model '{name}' holds {told}.")
        return
    config = json.loads(file.read_text(encoding="utf-8"))
    kinds = [str(kind) for kind in config.get("architectures") or ()]
    scores = len(config.get("id2label") or {"0": "", "1": ""})  # two, where none are told
    if any(kind.endswith("ForSequenceClassification") for kind in kinds) and scores == 1:
        return
    raise ConfigError(
        f"The reward model '{name}' is {', '.join(kinds) or 'a model'} with {scores} scores; a ...ForSequence"
        "Classification with one (num_labels: 1) is expected, such as trainer_type: REWARD makes."
    )


def score(
    prompts: list[Any], completions: list[Any], model: str, device: str = "cpu", batch_size: int = 16
) -> list[float]:
    """Return the score of every prompt with its completion, as tokens of a `ScoredRules`: a text with the end token, a
    chat as its template ends it.

    Args:
        prompts: texts, or lists of messages.
        completions: texts, or lists of one message.
        model: its folder, or its name on the hub.
        device: where it computes.
        batch_size: rows at a time.
    """
    import torch

    from trainwright.data.text.text_collators import padded

    scorer, rules = _loaded(model, device)
    pairs = zip(prompts, completions, strict=True)
    rows = [{"prompt": prompt, "chosen": completion, "rejected": completion} for prompt, completion in pairs]
    ids = [row["chosen_ids"] for row in rules.rows(rows, range(len(rows)))]
    found: list[float] = []
    for start in range(0, len(ids), batch_size):
        some = [torch.tensor(one) for one in ids[start : start + batch_size]]
        batch = {
            "input_ids": padded(some, 0, None),
            "attention_mask": padded([torch.ones_like(one) for one in some], 0, None),
        }
        with torch.no_grad():
            found += scorer({name: values.to(device) for name, values in batch.items()}).tolist()
    return found


@cache
def _loaded(name: str, device: str) -> tuple[Any, Any]:
    """Return (what scores a batch, how rows are tokenised).

    Raises:
        ConfigError: it has not one score.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from trainwright.config.options import RewardOptions
    from trainwright.data.sources.formats import Format
    from trainwright.data.text.scored import ScoredRules
    from trainwright.models.head import score_layer
    from trainwright.objectives.reward import RewardLoss

    model = AutoModelForSequenceClassification.from_pretrained(name, dtype="auto").to(device).eval()
    if model.config.num_labels != 1:
        raise ConfigError(f"The reward model '{name}' has {model.config.num_labels} scores; one is expected.")
    loss = RewardLoss(RewardOptions(), score_layer(model))
    rules = ScoredRules(AutoTokenizer.from_pretrained(name), Format.PREFERENCE)
    return lambda rows: loss.scores(model, rows).float(), rules
