"""Data parallel training: every process holds the model, sees its own rows, and gradients are averaged."""

from __future__ import annotations

import pickle
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from trainwright.errors import ConfigError
from trainwright.parallel.peers import Peer, this_process
from trainwright.parallel.strategy import ALL_HERE, ProcessOptions, Strategy
from trainwright.processes import start_processes
from trainwright.world import DataShard, World

BUCKET = 250 << 20  # bytes of buffers that are exchanged at once
_PIECE = 1 << 22  # elements whose norm is computed at once
_LISTEN = 0.5  # seconds between looks for a word
_LOOK = 0.05  # seconds between looks for what is waited for when something failed


class DataParallel(Strategy):
    """Several processes under torchrun, each with the whole model on its own device."""

    def setup(self, world: World, device: torch.device, options: ProcessOptions) -> None:
        """Join the other processes of torchrun; without it this process is the only one.

        Raises:
            ConfigError: several processes on a device that cannot exchange gradients.
        """
        if world.size > 1 and device.type == "mps":
            raise ConfigError("Several processes cannot train on one Apple GPU. Start one, or set use_cpu=True.")
        self.world, self.device, self.options = world, device, options
        self.is_distributed, self.data_shard = world.size > 1, DataShard(world.rank, world.size)
        self.gradient_divide_factor = world.size  # DistributedDataParallel averages
        self.hosts = start_processes(device, options.backend, options.timeout)
        everyone = distributed.distributed_c10d._get_default_store()
        self.store = distributed.PrefixStore("trainwright", everyone)  # type: ignore[attr-defined]  # torch lists no stores
        self.wrapped: dict[int, weakref.ref[nn.Parameter]] = {}  # of all models that were prepared, by their ids
        self._listened = 0.0
        self.peers = self.gather(this_process(world.rank)) if self.is_distributed else []

    def prepare(self, model: nn.Module, recomputes: bool = False) -> nn.Module:
        """Return the model wrapped in DistributedDataParallel, where it has anything to train.

        Unless it is said, a step may leave parameters out, but where activations are recomputed, which torch's
        reentrant form does not let be looked through; as in transformers.
        """
        trained = {id(p): weakref.ref(p) for p in model.parameters() if p.requires_grad}
        frozen = {id(p) for p in model.parameters() if not p.requires_grad}  # now; another wrapper may have had them
        self.wrapped = {name: p for name, p in self.wrapped.items() if p() is not None and name not in frozen} | trained
        if isinstance(model, DistributedDataParallel) or not trained:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        options = {"find_unused_parameters": not recomputes, **self.options.ddp}
        return DistributedDataParallel(model, device_ids=devices, **options)

    def accumulate(self, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Keep gradients to this process until the last micro-batch of a step, or until `finish_gradients`; of a static
        graph torch knows no pass that does."""
        alone = self.options.late or not (last or self._is_static)
        return model.no_sync() if isinstance(model, DistributedDataParallel) and alone else nullcontext()

    def needs_zero_weight_step(self, last: bool) -> bool:
        """Whether gradients are exchanged in the backward pass of this micro-batch."""
        return (last or self._is_static) and self.is_distributed

    @property
    def _is_static(self) -> bool:
        return bool(self.options.ddp.get("static_graph"))

    def explained(self, error: Exception) -> str | None:
        """As of `Strategy`: a layer that is computed again by torch's reentrant form, which a model calls by itself."""
        if "mark a variable ready only once" not in str(error):
            return None
        return (
            "The model computes layers again by torch's reentrant checkpoint, or calls them in several passes, and "
            "DistributedDataParallel looks for parameters that a step does not use. Use checkpoint(..., "
            "use_reentrant=False), or set ddp_find_unused_parameters=False where every step uses all of them."
        )

    def finish_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Exchange the gradients now where a process may fail in its backward pass, so that none waits for it there;
        and those of parameters that were not trained when the model was wrapped."""
        parameters = [p for p in parameters if self.options.late or not self._is_wrapped(p)]
        if not parameters:
            return
        used = [any(column) for column in zip(*self.agree(*(p.grad is not None for p in parameters)), strict=True)]
        gradients = []
        for parameter in (p for p, is_used in zip(parameters, used, strict=True) if is_used):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        if not gradients:
            return
        together = self.sum_tensor(torch._utils._flatten_dense_tensors(gradients))
        together /= self.gradient_divide_factor
        torch._foreach_copy_(gradients, list(torch._utils._unflatten_dense_tensors(together, gradients)))

    def _is_wrapped(self, parameter: nn.Parameter) -> bool:
        """Whether DistributedDataParallel exchanges a parameter's gradient."""
        known = self.wrapped.get(id(parameter))
        return known is not None and known() is parameter

    def norms(self, tensors: list[torch.Tensor], order: float = 2.0) -> torch.Tensor:
        """Return the norm of every gradient or parameter: the same bits, whichever parts of it processes hold."""
        return exact_norms(tensors, order).to(torch.promote_types(tensors[0].real.dtype, torch.float32))

    @contextmanager
    def with_main_buffers(self, model: nn.Module) -> Iterator[None]:
        """Let the model have rank 0's buffers, such as running means, which are those that a checkpoint holds.

        Ranks that keep their own in training (`ddp_broadcast_buffers=False`) have them again afterwards.
        """
        buffers = [b for b in model.buffers() if b.layout is torch.strided and b.numel()]
        own = [] if self.options.ddp.get("broadcast_buffers", True) else [b.clone() for b in buffers]
        if buffers:
            group = distributed.distributed_c10d._get_default_group()
            with torch.no_grad():
                distributed._broadcast_coalesced(group, buffers, BUCKET, 0)  # type: ignore[attr-defined]  # as DDP does
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, kept in zip(buffers, own, strict=False):
                    buffer.copy_(kept)

    def describe(self) -> str:
        """Return the number of processes."""
        return f"{self.world.size} processes" if self.is_distributed else ""

    def agree(self, *values: float) -> list[list[float]]:
        """Return the values of every process, through the hosts' own group.

        By way of the first one, which sends them on along a tree: gloo's all_gather is a ring, of as many messages one
        after another as there are processes.
        """
        mine, size = torch.tensor(values, dtype=torch.float64), self.world.size
        rows = [torch.empty_like(mine) for _ in range(size)] if self.is_main else None
        distributed.gather(mine, rows, dst=0, group=self.hosts)
        everyone = torch.stack(rows) if rows is not None else mine.new_empty(size, len(values))
        distributed.broadcast(everyone, src=0, group=self.hosts)
        table: list[list[float]] = everyone.tolist()
        return table

    def sum_tensor(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all processes."""
        total = value.clone()
        distributed.all_reduce(total)
        return total

    def gather(self, value: Any) -> list[Any]:
        """Return an object of every process, rank by rank."""
        everyone: list[Any] = [None] * self.world.size
        distributed.all_gather_object(everyone, value, group=self.hosts)
        return everyone

    def from_main(self, value: Any) -> Any:
        """Return rank 0's object on every process."""
        carried = [value]
        distributed.broadcast_object_list(carried, src=0, group=self.hosts)
        return carried[0]

    def exchange(self, sent: Sequence[tuple[int, torch.Tensor]], received: Sequence[tuple[int, torch.Tensor]]) -> None:
        """Send tensors to other processes and fill tensors with what they send; as bytes, which every backend takes."""
        calls = [distributed.P2POp(distributed.isend, _bytes(tensor), to) for to, tensor in sent]
        calls += [distributed.P2POp(distributed.irecv, _bytes(tensor), of) for of, tensor in received]
        for work in distributed.batch_isend_irecv(calls) if calls else ():
            work.wait()

    def barrier(self) -> None:
        """Wait until every process is here."""
        distributed.barrier(group=self.hosts)

    def tell(self, word: str) -> None:
        """Leave a word in the store by which the processes found each other."""
        self.store.set(word, "1")

    def heard(self, word: str) -> bool:
        """Whether a process has left a word; looked for twice a second."""
        now = time.monotonic()
        if now - self._listened < _LISTEN:
            return False
        self._listened = now
        return self.store.check([word])

    def all_here(self, place: str, value: Any, patience: float = ALL_HERE, together: bool = True) -> list[Any] | None:
        """Return the value of every process, where all come to the same place in time; else None, at once where one
        has gone that has left no value."""
        keys = [f"{place}/{rank}" for rank in range(self.world.size)]
        try:
            self.store.set(keys[self.world.rank], pickle.dumps(value))  # type: ignore[arg-type]  # it takes bytes, too
            if self._come(keys, patience):
                return [pickle.loads(self.store.get(key)) for key in keys]
            if together:
                self.store.delete_key(keys[self.world.rank])  # who comes later is not to believe that this one waits
            return None
        except distributed.DistError:  # the process that has the store is gone
            return None

    def wait_for(self, word: str) -> bool:
        """Wait until a process has left a word, or one has gone; return whether it has left the word."""
        try:
            return self._come([word], self.options.timeout)
        except distributed.DistError:  # the process that has the store is gone
            return False

    def _come(self, keys: list[str], patience: float) -> bool:
        """Wait until the store has some words; False where that takes too long, or a process has gone."""
        until = time.monotonic() + patience
        while True:
            if self.store.check(keys):
                return True
            if time.monotonic() > until or any(peer.is_gone() for peer in self.peers):
                return self.store.check(keys)
            time.sleep(_LOOK)

    def tell_failure(self, reason: str) -> None:
        """Let the others know why this process will leave."""
        with suppress(distributed.DistError):
            self.store.set(f"failed/{self.world.rank}", reason)

    def lost(self) -> str | None:
        """Return which other processes failed or are gone, in a sentence without its end."""
        told = [self._told(peer) for peer in self.peers if peer.rank != self.world.rank]
        return "; ".join(filter(None, told)) or None

    def _told(self, peer: Peer) -> str | None:
        key = f"failed/{peer.rank}"
        with suppress(distributed.DistError):
            if self.store.check([key]):
                return f"{peer.describe()} failed: {self.store.get(key).decode()}"
        return f"{peer.describe()} was killed or has left" if peer.is_gone() else None

    def ranks(self) -> list[dict[str, Any]]:
        """Return of every process its rank, host, pid, and the file of what it prints."""
        return [asdict(peer) for peer in self.peers]

    def answers(self, question: str, mine: str, patience: float) -> list[tuple[str, str | None]]:
        """Return (who it is, its answer) of every process, after some seconds; None of those that gave none."""
        keys = [f"{question} {peer.rank}" for peer in self.peers]
        try:
            self.store.set(keys[self.world.rank], mine or " ")  # a store may keep no empty word
            time.sleep(patience)
            given = [self.store.get(key).decode().strip() if self.store.check([key]) else None for key in keys]
        except distributed.DistError:
            return []
        return [(peer.describe(), one) for peer, one in zip(self.peers, given, strict=True)]

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes rank 0's buffers after a step whose forward passes kept to themselves."""
        wrapped = getattr(model, "_orig_mod", model)
        if not self.options.late or not isinstance(wrapped, DistributedDataParallel):
            return
        if wrapped.broadcast_buffers and any(True for _ in wrapped.module.buffers()):
            wrapped._sync_buffers()


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(-1).view(torch.uint8)


def exact_norms(tensors: list[torch.Tensor], order: float) -> torch.Tensor:
    """Return the norms of some tensors, shape (tensors,), float64: squares of float32 are added without a loss that is
    seen in float32, so it does not matter in which order, or in how many parts."""
    tensors = [torch.view_as_real(one) if one.is_complex() else one for one in tensors]
    if tensors[0].device.type != "cpu":
        return torch.stack(torch._foreach_norm(tensors, order, torch.float64))
    return torch.stack([_exact_norm(tensor.reshape(-1), order) for tensor in tensors])


def _exact_norm(values: torch.Tensor, order: float) -> torch.Tensor:
    """Return a norm; torch's own of another format than the tensor's takes thirty times as long on a CPU."""
    parts = [torch.linalg.vector_norm(part.double(), order) for part in values.split(_PIECE)]
    norm: torch.Tensor = parts[0] if len(parts) == 1 else torch.linalg.vector_norm(torch.stack(parts), order)
    return norm
