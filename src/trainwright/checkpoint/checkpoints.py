"""The checkpoints of a training loop of one's own, by what a Trainer's are made of."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import nn

from trainwright.batch import map_tensors
from trainwright.checkpoint import folder, layout
from trainwright.checkpoint.lock import RunLock
from trainwright.checkpoint.model import weights
from trainwright.checkpoint.parts import Opened, Part, Stateful, check_users, of_users, restore, trees
from trainwright.checkpoint.past import Past
from trainwright.checkpoint.sharded import verify
from trainwright.checkpoint.snapshot import HostCopies
from trainwright.checkpoint.writer import PendingCheckpoint, Writer, not_written
from trainwright.errors import ConfigError, TrainwrightError, UnsavableError
from trainwright.models.inspect import unwrapped
from trainwright.parallel.strategy import Strategy
from trainwright.state import TrainerState

logger = logging.getLogger("trainwright")


class Checkpoints:
    """The checkpoints of a training loop: each exists whole or not at all, whatever is killed when.

    It is a context: it holds the folder, which no other run can write meanwhile, and when it is left the last save is
    on the disk. All processes make it and call its methods at the same places; the first one writes, in a thread of its
    own, from a copy of the state. The weights lie as transformers lays them out (`model.safetensors`). At the first
    save, checkpoints that are not the past of the loop go to `previous-<time>`.

    Args:
        place: the folder of the `checkpoint-<step>` folders.
        strategy: how the loop is spread over processes.
        model: in its place; what `strategy.prepare` or `torch.compile` made of it stands for the model.
        parts: by name, whatever goes on in a resumed run and is the same on all processes: optimizer, schedule, data.
        of_ranks: by name, that of which every process keeps its own: streams of random numbers.
        keep: how many of the newest stay; None for all.

    Raises:
        ConfigError: a part has no `state_dict` and `load_state_dict`, an optimizer trains what is kept nowhere, the
            model is sharded, the folder is a checkpoint itself, or, when it is entered, another run has it or it cannot
            be written.
    """

    def __init__(
        self,
        place: str | Path,
        strategy: Strategy,
        model: nn.Module,
        parts: Mapping[str, Stateful],
        *,
        of_ranks: Mapping[str, Stateful] | None = None,
        keep: int | None = None,
    ) -> None:
        self.place = Path(place)
        self.strategy = strategy
        self.model = unwrapped(model)
        self.parts = dict(parts)
        self.of_ranks = dict(of_ranks or {})
        self.keep = keep
        if strategy.shards_state:
            raise ConfigError(
                f"{type(strategy).__name__} spreads the model over processes, and a loop of one's own cannot save "
                "that. Train with Trainer, or with a strategy that keeps the model whole, such as DataParallel."
            )
        if (self.place / layout.MANIFEST).exists():
            raise ConfigError(
                f"'{self.place}' is a checkpoint itself; give the folder that holds it, '{self.place.parent}'."
            )
        check_users(self.parts, "parts")
        check_users(self.of_ranks, "of_ranks")
        check_optimizers(self.model, {**self.parts, **self.of_ranks})
        self._past = Past(self.place, uuid4().hex)
        self._origin: Path | None = None
        self._is_first, self._is_entered = True, False
        self._lock = RunLock(self.place)
        self._writer, self._copies = Writer(), HostCopies()

    def __enter__(self) -> Checkpoints:
        self.strategy.on_main(lambda: claim(self.place, self._lock))
        self._is_entered = True
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Wait for the save in flight; its failure is raised, unless an error leaves already."""
        self._is_entered = False
        try:
            if kind is None:
                self.strategy.on_main(self._collect)
            elif (problem := self._writer.close()) is not None:
                self._note(str(problem))
        finally:
            self._writer.close()
            self._lock.release()

    def restore(self) -> int:
        """Give the model and all parts what the newest whole checkpoint keeps of them.

        Returns:
            Its step; 0 where the folder has no checkpoint, and nothing is changed.

        Raises:
            CheckpointError: all are damaged, or a part cannot go on with it.
            ConfigError: the context is not entered.
        """
        self._check_entered()
        if not self.strategy.on_main(lambda: layout.holds_any(self.place)):
            return 0
        chosen, passed_over = verify.choose(self.strategy, self.place, True)
        for fault in passed_over:
            self._note(f"Passed over {fault}.")
        weights.load_model(self.model, chosen)
        restore(self._shared(chosen) | self._own(chosen), Opened(chosen, self.strategy))
        self._past = Past(self.place, folder.run_of(chosen) or self._past.run_id)
        self._origin = chosen
        return layout.step_of(chosen)

    def save(self, step: int) -> None:
        """Begin to write `checkpoint-<step>`, after the update of that step; wait for the save before.

        Raises:
            SaveError: the save before could not be written, or this one cannot be begun; earlier ones are untouched.
            UnsavableError: a part's state holds what no checkpoint can keep; it is named.
            ConfigError: the context is not entered.
        """
        self._check_entered()
        ranks = self.strategy.gather(self._of_this_rank())
        refusal = next((one for one in ranks if isinstance(one, TrainwrightError)), None)
        if refusal is not None:
            raise refusal
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        finite = dict(zip(trained, self.strategy.finite(list(trained.values())), strict=True))
        self.strategy.on_main(lambda: self._begin(step, ranks, finite))

    def _check_entered(self) -> None:
        if not self._is_entered:
            raise ConfigError(
                "Checkpoints hold their folder while they are entered: restore and save within `with checkpoints:`."
            )

    def _of_this_rank(self) -> Any:
        """Return what this process keeps, on the host, or why it cannot be kept, for all to hear of it."""
        try:
            state = trees(self._own(None), {}).get(layout.RANK, {})
        except UnsavableError as error:
            return error
        return map_tensors(state, lambda tensor: tensor.cpu())

    def _begin(self, step: int, ranks: list[Any], finite: dict[str, torch.Tensor]) -> None:
        self._collect()
        self._set_aside()
        place = layout.of_step(self.place, step)
        temporary = None
        try:
            objects = {layout.PARTS: {}} | trees(self._shared(None), {})
            objects |= {layout.of_rank(rank, len(ranks)): state for rank, state in enumerate(ranks)}
            temporary = folder.open_temporary(place)
            tensors = weights.save_all_but_tensors(self.model, temporary, None)
            TrainerState(global_step=step).save_to_json(temporary / layout.STATE)
            draft = PendingCheckpoint(place, self._past, temporary, weights=tensors, objects=objects, keep=self.keep)
            copied = self._copies.take({"weights": tensors, "objects": objects, "finite": finite})
            draft.weights, draft.objects, draft.finite = copied["weights"], copied["objects"], copied["finite"]
            draft.copies = self._copies
        except Exception as error:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, UnsavableError):
                raise
            raise not_written(place, error) from error
        self._writer.start(draft)

    def _set_aside(self) -> None:
        """Before the first save, move checkpoints away that are not the past of this loop, so that none is mixed up."""
        told = folder.set_aside(self.place, self._origin) if self._is_first else None
        self._is_first = False
        if told is not None:
            self._note(told)

    def _collect(self) -> None:
        """Wait for the save in flight, and say what could not be deleted for it."""
        written = self._writer.collect(wait=True)
        for problem in written.problems if written is not None else []:
            self._note(problem)

    def _shared(self, place: Path | None) -> dict[str, Part]:
        return dict(of_users(self.parts, place, self._note, file=layout.PARTS))

    def _own(self, place: Path | None) -> dict[str, Part]:
        return dict(of_users(self.of_ranks, place, self._note, on_all=False))

    def _note(self, message: str) -> None:
        if self.strategy.is_main:
            logger.warning(message)


def check_optimizers(model: nn.Module, parts: Mapping[str, Stateful]) -> None:
    """See whether what the optimizers train is kept: in the model, or in another part.

    Raises:
        ConfigError: an optimizer has parameters that are not, such as those of a model before it was copied.
    """
    others = {name: part for name, part in parts.items() if not isinstance(part, torch.optim.Optimizer)}
    modules = [model, *(part for part in others.values() if isinstance(part, nn.Module))]
    kept = {id(parameter) for module in modules for parameter in module.parameters()}
    for name, optimizer in parts.items():
        if not isinstance(optimizer, torch.optim.Optimizer):
            continue
        held = [p for group in optimizer.param_groups for p in group["params"]]
        lost = [p for p in held if id(p) not in kept]
        if lost and not _is_kept(lost, others):
            raise ConfigError(
                f"The optimizer '{name}' trains {len(lost)} of {len(held)} parameters that are neither the model's nor "
                "another part's, so no checkpoint would hold their values. Make it from the parameters of the very "
                "model that is given, after that was copied, loaded or moved; put any other module among the parts."
            )


def _is_kept(parameters: list[torch.Tensor], parts: Mapping[str, Stateful]) -> bool:
    """Whether all parameters are in the states of parts that are no modules, by their memory."""
    found: list[torch.Tensor] = []
    for part in parts.values():
        if not isinstance(part, nn.Module):
            map_tensors(part.state_dict(), found.append)
    return {tensor.data_ptr() for tensor in found}.issuperset(parameter.data_ptr() for parameter in parameters)


def claim(place: Path, lock: RunLock) -> None:
    """Refuse a run's folder to a second run, and sweep what dead saves have left in it.

    Raises:
        ConfigError: the folder cannot be made or written, or another run is in it.
    """
    lock.acquire()
    try:
        folder.sweep(place)
    except BaseException:
        lock.release()
        raise
