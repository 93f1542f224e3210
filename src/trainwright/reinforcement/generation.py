"""A generation: prompts, completions, and what they were worth. A value: written once, before its first use."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from trainwright.batch import IGNORED
from trainwright.checkpoint import layout
from trainwright.errors import CheckpointError
from trainwright.parallel.strategy import Strategy

FOLDER = "generations"
MOVED_BY = ("learning_rate", "lr_scheduler_type", "weight_decay", "max_grad_norm", "optim")
"""Arguments that the weights at a generation follow from, beside the settings of the method."""
WRITTEN_BY = ("max_completion_length", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop")
"""Settings of the method that completions follow from."""
JUDGED_BY = (
    "reward_functions", "reward_function_kwargs", "reward_weights", "scale_rewards", "reward_clip_range",
    "normalize_advantages",
)  # fmt: skip
"""Settings of the method that advantages follow from."""
_RAGGED = ("prompts", "completions", "sampler", "old", "reference")


@dataclass
class Generation:
    """The completions of some prompts, group after group.

    Attributes:
        epoch: the pass that it belongs to.
        number: which generation of the pass it is.
        step: optimizer steps that its policy had made.
        functions: names of the rewards.
        rows: number of every group's prompt in the data.
        prompts: tokens of every completion's prompt.
        completions: tokens of every completion.
        finished: whether it has an end, shape (completions,).
        sampler: log-probabilities of every completion's tokens, as they were chosen.
        rewards: of every function, shape (completions, functions); NaN for none. float64.
        totals: what a completion earned, shape (completions,); NaN for nothing. float64.
        advantages: what it is worth, shape (completions,). float64.
        old: log-probabilities under the policy at that step, where they are not those of training.
        reference: under the reference, where there is one.
    """

    epoch: int
    number: int
    step: int
    functions: list[str]
    rows: list[int]
    prompts: list[torch.Tensor]
    completions: list[torch.Tensor]
    finished: torch.Tensor
    sampler: list[torch.Tensor]
    rewards: torch.Tensor
    totals: torch.Tensor
    advantages: torch.Tensor
    old: list[torch.Tensor] | None = None
    reference: list[torch.Tensor] | None = None

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens of every completion, shape (completions,)."""
        return torch.tensor([len(one) for one in self.completions])

    def counted(self, masks_truncated: bool) -> torch.Tensor:
        """Return whether a completion counts in the loss, shape (completions,)."""
        return self.finished if masks_truncated else torch.ones_like(self.finished)

    def batch(self, chosen: list[int], pad: int, masks_truncated: bool, multiple: int = 1) -> dict[str, torch.Tensor]:
        """Return some completions as a micro-batch, padded on the right; see `PolicyLoss`.

        Args:
            chosen: their numbers.
            pad: token that fills rows up.
            masks_truncated: whether completions without an end do not count.
            multiple: what the width is a multiple of.
        """
        counts = self.counted(masks_truncated)
        found = padded([self.prompts[n] for n in chosen], [self.completions[n] for n in chosen], pad, multiple)
        found["labels"][~counts[chosen]] = IGNORED
        width = found["input_ids"].shape[1]
        for name in ("sampler", "old", "reference"):
            known: list[torch.Tensor] | None = getattr(self, name)
            if known is not None:
                rows = [torch.cat([torch.zeros(len(self.prompts[n])), known[n]]) for n in chosen]
                filled = pad_sequence(rows, batch_first=True)
                found[name] = torch.nn.functional.pad(filled, (0, width - filled.shape[1]))
        share = float(self.lengths[counts].sum().clamp(min=1)) / len(self.completions)
        found["advantages"] = self.advantages[chosen]
        found["tokens_per_completion"] = torch.full((len(chosen),), share, dtype=torch.float64)
        return found


def padded(
    prompts: list[torch.Tensor], completions: list[torch.Tensor], pad: int, multiple: int = 1
) -> dict[str, torch.Tensor]:
    """Return prompts with their completions as rows padded on the right, the completions as labels."""
    rows = [torch.cat(pair) for pair in zip(prompts, completions, strict=True)]
    labels = [torch.cat([torch.full_like(p, IGNORED), c]) for p, c in zip(prompts, completions, strict=True)]
    spare = -max(map(len, rows)) % multiple
    columns = {
        "input_ids": (rows, pad),
        "labels": (labels, IGNORED),
        "attention_mask": ([torch.ones_like(r) for r in rows], 0),
    }
    return {
        name: torch.nn.functional.pad(
            pad_sequence(values, batch_first=True, padding_value=fill), (0, spare), value=fill
        )
        for name, (values, fill) in columns.items()
    }


def joined(parts: list[dict[str, torch.Tensor]], pad: int) -> dict[str, torch.Tensor]:
    """Return micro-batches of several generations as one, all of the width of the widest."""
    width = max(part["input_ids"].shape[1] for part in parts)
    fill = {"input_ids": pad, "labels": -100}
    names = [name for name in parts[0] if all(name in part for part in parts)]

    def widened(name: str, value: torch.Tensor) -> torch.Tensor:
        if value.ndim < 2:
            return value
        return torch.nn.functional.pad(value, (0, width - value.shape[1]), value=fill.get(name, 0))

    return {name: torch.cat([widened(name, part[name]) for part in parts]) for name in names}


def sums_of(model: torch.nn.Module, strategy: Strategy) -> str:
    """Return what tells the weights of a model from others, in a few bytes: sums of their bits, of what each process
    holds where they share it."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in model.state_dict().items():
        bits = strategy.held(value).contiguous().view(torch.uint8).flatten()
        words = bits[: len(bits) // 4 * 4].view(torch.int32)
        digest.update(repr((name, int(words.sum(dtype=torch.int64)), int(words[::7].sum(dtype=torch.int64)))).encode())
    everyone = strategy.gather(digest.hexdigest()) if strategy.shards_state else [digest.hexdigest()]
    return "".join(everyone)


def file_of(run_folder: Path, epoch: int, number: int) -> Path:
    """Return where a generation lies."""
    return run_folder / FOLDER / f"generation-{epoch}-{number}.safetensors"


def lying(run: Any, epoch: int, number: int) -> Path | None:
    """Return where a generation lies: in the run's folder, or beside the checkpoint that the run went on from."""
    folders = [run.folder, *([] if run.origin is None else [run.origin.parent])]
    return next((path for path in (file_of(folder, epoch, number) for folder in folders) if path.exists()), None)


def written(run_folder: Path) -> Iterator[tuple[int, int, Path]]:
    """Yield (pass, number, file) of every generation that lies in a run's folder."""
    for path in (run_folder / FOLDER).glob("generation-*-*.safetensors"):
        _, epoch, number = path.stem.split("-")
        yield int(epoch), int(number), path


def sweep(run: Any, span: int) -> None:
    """Delete a run's generations that no checkpoint may need any more: older than the newest, and in use at none.

    Args:
        run: whose they are.
        span: places of a generation.
    """
    places = []
    for checkpoint in run.past.checkpoints():
        about = json.loads((checkpoint / layout.RUN).read_text(encoding="utf-8"))
        places.append((about["epoch"], about["position"]))
    for epoch, number, path in list(written(run.folder)) if places else ():
        is_behind = (epoch, (number + 1) * span) <= places[-1]
        in_use = any(e == epoch and number * span < place < (number + 1) * span for e, place in places)
        if is_behind and not in_use:
            path.unlink(missing_ok=True)


def write(generation: Generation, path: Path, about: dict[str, Any]) -> None:
    """Write a generation so that it is whole or not there, whenever a kill or a power failure comes.

    Args:
        about: what it depends on, for `read`.
    """
    from safetensors.torch import save_file

    flat: dict[str, torch.Tensor] = {
        name: getattr(generation, name) for name in ("finished", "rewards", "totals", "advantages")
    }
    flat["rows"] = torch.tensor(generation.rows)
    for name in _RAGGED:
        values: list[torch.Tensor] | None = getattr(generation, name)
        if values is not None:
            flat[name] = torch.cat(values)
    flat["prompt_lengths"] = torch.tensor([len(one) for one in generation.prompts])
    flat["lengths"] = generation.lengths
    told = {"about": about, **{name: getattr(generation, name) for name in ("epoch", "number", "step", "functions")}}
    part = _unfinished(path)
    save_file(flat, part, metadata={"generation": json.dumps(told)})
    _publish(part, path)


def put_back(content: bytes, path: Path) -> None:
    """Write a generation as a checkpoint has kept its file, where none or another one lies; as `write` does."""
    if not path.exists() or path.read_bytes() != content:
        part = _unfinished(path)
        part.write_bytes(content)
        _publish(part, path)


def _unfinished(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}-{os.getpid()}")


def _publish(part: Path, path: Path) -> None:
    for place in (part, path.parent):
        if place == path.parent:
            part.replace(path)
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what a generation would be written or judged with now, other than it was, as words."""
    found = [f"rows {before['rows']} -> {now['rows']}"] if before["rows"] != now["rows"] else []
    for part in ("settings", "judged"):
        then = before.get(part, {})
        other = [name for name, value in now[part].items() if then.get(name, value) != value]
        found += [f"{name} {then[name]} -> {now[part][name]}" for name in other]
    return found


def read(path: Path) -> tuple[Generation, dict[str, Any]]:
    """Return a generation that was written, and what it depends on.

    Raises:
        CheckpointError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads(file.metadata()["generation"])
            names = list(file.keys())
            flat = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"The generation '{path}' cannot be read ({error}). Delete it and resume from a checkpoint before it: its "
            "completions are written anew."
        ) from error
    about = told.pop("about")
    sizes = {name: flat.pop(name).tolist() for name in ("prompt_lengths", "lengths")}
    known: dict[str, Any] = {
        name: list(flat.pop(name).split(sizes["prompt_lengths" if name == "prompts" else "lengths"]))
        for name in _RAGGED
        if name in flat
    }
    return Generation(**told, **known, rows=flat.pop("rows").tolist(), **flat), about
