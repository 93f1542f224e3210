"""Direct preference optimisation: non-pad tokens per second and peak memory, against TRL and a loop by hand.

`python -m benchmarks.dpo [THREADS] [VOCABULARY...]`. The Llama of `benchmarks.sft`, prompts and answers of 20 to 150
tokens each, 4 pairs a step, float32. Tokens are those of prompt and answer, counted for both answers. `before` means
that the reference's log-probabilities were computed before the counted steps.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import language
from benchmarks.language import WARM_UP, Clock

ROUNDS, STEPS, PAIRS = 3, 8, 4
ENGINES = ("TRL", "TRL, before", "file", "file, before", "hand, before")


def pairs(vocabulary: int) -> list[dict[str, list[int]]]:
    """Return pairs of random tokens."""
    import numpy as np

    generator = np.random.default_rng(0)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [
        {name: generator.integers(3, vocabulary, int(generator.integers(20, 151))).tolist() for name in names}
        for _ in range(STEPS * PAIRS)
    ]


def texts(data: list[dict[str, list[int]]]) -> list[dict[str, str]]:
    """Return the pairs as text, one word a token."""
    return [{name.removesuffix("_ids"): "".join(f" w{token}" for token in row[name]) for name in row} for row in data]


def content(place: Path, vocabulary: int, engine: str) -> dict[str, Any]:
    """Return a run's file."""
    return {
        "model": {
            "model_name": "llama", "load_pretrained_weights": False, "model_kwargs": language.SIZES,
            "tokenizer_name": str(write_splitting_tokenizer(place / "tokenizer", vocabulary)),
        },
        "data": {"train": {"datasets": [{"dataset_name": str(place / "rows.jsonl")}]}},
        "training": {
            "output_dir": str(place / "out"), "trainer_type": "TRL_DPO" if engine.startswith("TRL") else "DPO",
            "max_steps": STEPS, "per_device_train_batch_size": PAIRS, "save_strategy": "no", "use_cpu": True,
            "disable_tqdm": True, "logging_strategy": "no", "report_to": "none", "optim": "adamw_torch_fused",
            "train_sampling_strategy": "sequential", "save_final_model": False, "learning_rate": 1e-6,
            "trainer_kwargs": {"precompute_ref_log_probs": "before" in engine},
        },
    }  # fmt: skip


def write_splitting_tokenizer(folder: Path, vocabulary: int) -> Path:
    """Write a tokenizer that knows every word, and return its folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<end>": 1} | {f"w{number}": number for number in range(2, vocabulary)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<pad>").save_pretrained(folder)
    return folder


def by_hand(vocabulary: int, data: list[dict[str, list[int]]], clock: Clock) -> None:
    """Train with a loop of our reader's own, the reference's log-probabilities computed before."""
    import torch
    from torch.nn import functional

    language.register_by_hand()
    model = language.new_model(vocabulary, "by_hand")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0, fused=True)

    def log_probs(batch: list[dict[str, list[int]]]) -> Any:
        rows = [row["prompt_ids"] + row[name] for row in batch for name in ("chosen_ids", "rejected_ids")]
        starts = [len(row["prompt_ids"]) for row in batch for _ in range(2)]
        tokens, positions, lengths = language.flat(rows)
        hidden = model.model(input_ids=tokens, position_ids=positions, lengths=lengths).last_hidden_state[0]
        keep = torch.cat([torch.arange(n) >= start for n, start in zip(lengths, starts, strict=True)])
        index = keep.nonzero().squeeze(1)
        logits = model.lm_head(hidden[index - 1])
        found = -functional.cross_entropy(logits, tokens[0, index], reduction="none")
        owner = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(lengths))[index]
        return torch.zeros(len(rows)).index_add(0, owner, found).view(-1, 2)

    batches = [data[step * PAIRS : (step + 1) * PAIRS] for step in range(STEPS)]
    with torch.no_grad():
        reference = [log_probs(batch) for batch in batches]
    for batch, theirs in zip(batches, reference, strict=True):
        ratio = log_probs(batch) - theirs
        loss = -functional.logsigmoid(0.1 * (ratio[:, 0] - ratio[:, 1])).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.tick()


def measure(engine: str, vocabulary: int, threads: int) -> dict[str, float]:
    """Train in this process; return tokens per second and the growth of peak memory in MB."""
    import datasets  # noqa: F401  loaded before memory is counted, as transformers is
    import torch
    import transformers
    import yaml

    from trainwright.config.composition import build
    from trainwright.config.reading.read import load_checked

    torch.set_num_threads(threads)
    data, clock, place = pairs(vocabulary), Clock(), Path(tempfile.mkdtemp())
    counted = sum(
        2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])
        for row in data[WARM_UP * PAIRS :]
    )
    before = language.peak()
    if engine.startswith("hand"):
        by_hand(vocabulary, data, clock)
    else:
        language.write_rows(place / "rows.jsonl", texts(data))
        (place / "run.yaml").write_text(yaml.safe_dump(content(place, vocabulary, engine)))
        trainer = build(load_checked(place / "run.yaml").config)
        trainer.trainer.add_callback(clock.callback(transformers.TrainerCallback))  # type: ignore[attr-defined]
        trainer.train()
    return {"speed": counted / clock.seconds, "memory": language.peak() - before}


def main() -> None:
    """Print a table of medians and the range of the rounds' ratios."""
    numbers = [int(given) for given in sys.argv[1:] if given.isdigit()]
    threads, vocabularies = (numbers or [2])[0], numbers[1:] or [8192]
    print(language.HEAD.format("vocabulary"))
    for vocabulary in vocabularies:
        found = language.in_turns("benchmarks.dpo", ENGINES, ROUNDS, vocabulary, threads)
        print(language.lines(str(vocabulary), found), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
