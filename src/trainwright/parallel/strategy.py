"""How a run is spread over processes: all that the engine asks of it, with one process as the plain case.

What a subclass for sharded models overrides: `place`, `prepare`, `rest` and `accumulate` (the model),
`finish_gradients`, `needs_zero_weight_step` and `silenced` (its exchanges), `ran_out` and `forget` (a step that breaks
off), `norms` and `held` (of parts); and where several processes compute one model together, `setup`, which says that
they read the same rows, `one_per_shard` and `sum_tensor`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import nn

from trainwright.batch import map_tensors
from trainwright.checkpoint import layout
from trainwright.devices import moved
from trainwright.errors import ConfigError, TrainwrightError
from trainwright.parallel import deferred
from trainwright.parallel.clipping import clip_factor
from trainwright.parallel.layouts.sharding import Sharding
from trainwright.parallel.precision import Flag, Precision
from trainwright.world import DataShard, World

T = TypeVar("T")
ALL_HERE = 10.0  # seconds in which processes that fail for the same reason all have failed


@dataclass(frozen=True)
class ProcessOptions:
    """What the arguments say of several processes.

    Attributes:
        backend: torch.distributed's; None for the one that fits the device.
        timeout: seconds that an exchange may take.
        late: whether gradients are exchanged after all backward passes of a step, because memory may run out in one.
        ddp: keywords of DistributedDataParallel.
        sharding: how they share one model; None where each holds the whole.
    """

    backend: str | None = None
    timeout: float = 1800
    late: bool = False
    ddp: dict[str, Any] = field(default_factory=dict)
    sharding: Sharding | None = None


class Strategy:
    """One process on one device. Subclasses override what differs with several.

    Every process calls the same methods in the same order, but where it says otherwise.

    Attributes:
        world: rank and number of the processes, which the strategy alone reads.
        device: where this process computes.
        is_distributed: whether there are other processes to exchange with.
        data_shard: which part of the rows this process reads.
        shards_state: whether this process holds its part alone of parameters and what follows them (DTensors), so that
            every forward pass is an exchange: all processes run the model equally often, and each writes and reads its
            part of a checkpoint.
        computes_alone: whether this process may run a model by itself, within `whole`.
        leads_shard: whether this process is the first of those that have the same part of the data.
        gradient_divide_factor: by what the exchange divides the sum of all processes' gradients (FSDP's term); a loss
            times this factor has the gradient that adds up over the shards.
    """

    world = World()
    device = torch.device("cpu")
    is_distributed = False
    data_shard = DataShard()
    shards_state = False
    computes_alone = True
    leads_shard = True
    gradient_divide_factor = 1

    def setup(self, world: World, device: torch.device, options: ProcessOptions) -> None:
        """Join the other processes and set the attributes; called once, before anything else is.

        Raises:
            ConfigError: there are others, which this strategy knows nothing of.
        """
        if world.size > 1:
            raise ConfigError(
                f"{type(self).__name__} runs one process, and torchrun has started {world.size}. Start one, or derive "
                "the strategy from trainwright.parallel.ddp.DataParallel."
            )
        self.world, self.device = world, device

    # ---- who this process is

    @property
    def is_main(self) -> bool:
        """Whether this process speaks for the run."""
        return self.world.is_main

    @property
    def is_local_main(self) -> bool:
        """Whether this process is the first of its machine."""
        return self.world.is_local_main

    @property
    def num_devices(self) -> int:
        """How many devices compute together, one for each process."""
        return self.world.size

    def describe(self) -> str:
        """Return how the run is spread, in words such as "2 processes"; nothing for one process."""
        return ""

    # ---- data

    def one_per_shard(self, everyone: Sequence[T]) -> Sequence[T]:
        """Return, of values of every process, rank by rank, those of one process for each shard of the data."""
        return everyone

    def gather_shards(self, value: Any) -> list[Any]:
        """Return an object of one process for each shard of the data."""
        return list(self.one_per_shard(self.gather(value)))

    def sum_over_shards(self, value: float) -> float:
        """Return the sum of a number over the shards of the data; exchanged between hosts, never the devices."""
        return float(sum(self.one_per_shard([one for (one,) in self.agree(value)])))

    def sum_tensor(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over the shards of the data."""
        return value

    def to_device(self, batch: Any) -> Any:
        """Return the batch with every tensor on the device; containers keep their kind."""
        return map_tensors(batch, lambda tensor: moved(tensor, self.device))

    # ---- the model

    def place(self, model: nn.Module) -> nn.Module:
        """Bring a model to where it is trained or evaluated, in place; return it. Done again, it changes nothing."""
        deferred.draw(model)
        return model.to(self.device)

    def prepare(self, model: nn.Module, recomputes: bool = False) -> nn.Module:
        """Return the module whose `forward` the loop calls.

        Args:
            model: in its place, with the weights that training begins with.
            recomputes: whether its backward pass runs the forward pass again.
        """
        return model

    def rest(self, model: nn.Module) -> None:
        """Bring a model into the form that it has between steps, after forward passes without a backward pass."""

    def whole(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return the context in which this process may call a model by itself, as often as it likes, without gradients;
        all processes enter and leave it at the same place."""
        return nullcontext()

    def generating(self, model: nn.Module) -> dict[str, Any]:
        """Make a model ready for its `generate`, and return what that is to be told of other processes."""
        return {}

    def with_main_buffers(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return the context in which the model has the same buffers on all processes: rank 0's."""
        return nullcontext()

    def share_buffers(self, model: nn.Module) -> None:
        """Let all processes have the buffers of the first, where the forward passes of a step do not do it."""

    # ---- gradients

    def accumulate(self, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one micro-batch: gradients are exchanged between processes only in the last."""
        return nullcontext()

    def backward(self, loss: torch.Tensor, precision: Precision) -> None:
        """Add the gradients of a share of a step's loss, a scalar; exchanged, they are those of all shares' sum."""
        factor = self.gradient_divide_factor
        precision.backward(loss * factor if factor != 1 else loss)

    def explained(self, error: Exception) -> str | None:
        """Return what to do about an error of torch's that a model's pass has raised because of how the run is spread,
        in whole sentences; None of any other."""
        return None

    def needs_zero_weight_step(self, last: bool) -> bool:
        """Whether a micro-batch without targets is run forward and backward all the same, as other processes wait for
        this one there; `last`: whether it is the last one of its step."""
        return False

    @contextmanager
    def silenced(self, model: nn.Module) -> Iterator[None]:
        """Let the backward passes of the body give gradients of 0 at every parameter."""
        handles = [p.register_hook(torch.zeros_like) for p in model.parameters() if p.requires_grad]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def ran_out(self, model: nn.Module, failed: bool, last: bool, again: Callable[[], None]) -> bool:
        """Return whether a micro-batch breaks off because memory ran out, called after each where that may be.

        Args:
            model: what the loop calls.
            failed: whether it did in this process.
            last: whether the micro-batch is the last of its step.
            again: runs it with one row and gradients of 0, where other processes wait for this one in its midst.
        """
        return failed

    def forget(self, model: nn.Module) -> bool:
        """Let go of what a step that broke off has left in a model, but for the gradients of its parameters; return
        whether that is possible."""
        return True

    def finish_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Exchange the gradients between processes, where the backward passes have not done it."""

    def norms(self, tensors: list[torch.Tensor], order: float = 2.0) -> torch.Tensor:
        """Return the norm of every whole gradient or parameter, shape (tensors,), on the device.

        Args:
            tensors: at least one; what this process holds of them.
            order: 2, or inf for the largest absolute value.
        """
        return torch.stack([norm.to(self.device) for norm in torch._foreach_norm(tensors, order)])

    def clip_gradients(self, parameters: list[nn.Parameter], max_norm: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale the gradients down to a norm, if it is above 0.

        Returns:
            The norm before, a scalar, and the norm of every parameter's gradient, shape (parameters,); 0 without one.
        """
        with_gradient = [p.grad for p in parameters if p.grad is not None]
        if not with_gradient:
            return torch.zeros((), device=self.device), torch.zeros(len(parameters), device=self.device)
        norms = self.norms(with_gradient)
        total = torch.linalg.vector_norm(norms)
        if max_norm > 0 and any(gradient.device != total.device for gradient in with_gradient):
            nn.utils.clip_grads_with_norm_(parameters, max_norm, total)
        elif max_norm > 0:  # the same, without sorting them by their devices
            factor = clip_factor(total, max_norm)
            if factor is not None:
                torch._foreach_mul_(with_gradient, factor)
        if len(with_gradient) < len(parameters):
            places = moved(torch.tensor([i for i, p in enumerate(parameters) if p.grad is not None]), self.device)
            norms = norms.new_zeros(len(parameters)).index_copy_(0, places, norms)
        return total, norms

    def finite(self, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return whether every value of each whole parameter is finite, shape (parameters,), left on the device."""
        if not parameters:
            return torch.ones(0, dtype=torch.bool)
        values = [p.detach() if p.numel() else p.detach().new_zeros(1) for p in parameters]
        if values[0].device.type == "cpu":  # there the norm takes a tenth of what the largest value takes
            fine = torch.isfinite(self.norms(values))
            if fine.all():  # else squares may have overflowed
                return fine
        return torch.isfinite(self.norms(values, math.inf))

    def nonfinite(self, loss: torch.Tensor, norm: torch.Tensor, precision: Precision) -> Flag:
        """Return whether a step must not change the parameters, the same on all processes: on a CPU at once, else as a
        scalar of the device, which nobody waits for.

        Args:
            loss: this process's share of the step's loss, a scalar.
            norm: the norm of the gradients, equal on all processes.
            precision: which the gradients were computed with.
        """
        if precision.scales:  # then gradients do not tell whether a loss was finite
            return precision.is_bad(self.sum_tensor(loss), norm, whole=True)
        return precision.is_bad(loss, norm, whole=not self.is_distributed)

    # ---- state

    def held(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return what this process holds of a tensor of the state, detached."""
        return tensor.detach()

    def own_file(self) -> str:
        """Return the name of the file in a checkpoint with what this process alone keeps."""
        return layout.of_rank(self.world.rank, self.world.size)

    @property
    def share(self) -> layout.Share:
        """Which of the files that all processes write side by side is this one's."""
        return layout.Share(self.world.rank, self.world.size)

    # ---- talk between the processes

    def exchange(self, sent: Sequence[tuple[int, torch.Tensor]], received: Sequence[tuple[int, torch.Tensor]]) -> None:
        """Send tensors to other processes and fill tensors with what they send, from device to device.

        Every process calls it at the same place; between two of them, the order of what is sent is that of what is
        received. All tensors are contiguous.

        Args:
            sent: to which process, and what.
            received: from which process, and into what.
        """

    def agree(self, *values: float) -> list[list[float]]:
        """Return the values of every process, rank by rank; one small exchange between hosts, never the devices."""
        return [list(values)]

    def any(self, flag: Any) -> bool:
        """Return whether a flag is raised on any process, on all of them; exchanged as by `agree`."""
        return any(raised for (raised,) in self.agree(bool(flag)))

    def gather(self, value: Any) -> list[Any]:
        """Return an object of every process, rank by rank."""
        return [value]

    def from_main(self, value: Any) -> Any:
        """Return rank 0's object on every process."""
        return value

    def on_main(self, call: Callable[[], Any]) -> Any:
        """Call a function on rank 0 and return its result on every process; its error is raised on all of them."""
        result, error = None, None
        if self.is_main:
            try:
                result = call()
            except TrainwrightError as raised:
                error = raised
        result, error = self.from_main((result, error))
        if error is not None:
            raise error
        return result

    def on_all(self, call: Callable[[], T]) -> T:
        """Call a function on every process and return its own result; an error of one is raised on all of them."""
        result, error = None, None
        try:
            result = call()
        except TrainwrightError as raised:
            error = raised
        error = next((one for one in self.gather(error) if one is not None), None)
        if error is not None:
            raise error
        return cast(T, result)

    def barrier(self) -> None:
        """Wait until every process is here."""

    def tell(self, word: str) -> None:
        """Leave a word for the other processes, which hear it when they look; for where no exchange is due."""

    def heard(self, word: str) -> bool:
        """Whether a process has left a word; looked for twice a second."""
        return False

    def all_here(self, place: str, value: Any, patience: float = ALL_HERE, together: bool = True) -> list[Any] | None:
        """Return the value of every process, where all come to the same place within `patience` seconds; else None.

        For when something failed: no exchange that may hang in the middle of another one is used. Where they need not
        go on `together`, one that comes when another has left already has the value of that one all the same.
        """
        return [value]

    def wait_for(self, word: str) -> bool:
        """Wait until a process has left a word, and return whether it has: else one is gone."""
        return True

    def tell_failure(self, reason: str) -> None:
        """Let the other processes know why this one will leave."""

    def lost(self) -> str | None:
        """Return which other processes failed or are gone, in a sentence without its end."""
        return None

    def ranks(self) -> list[dict[str, Any]]:
        """Return of every process its rank, host, pid, and the file of what it prints; of one alone nothing."""
        return []

    def answers(self, question: str, mine: str, patience: float) -> list[tuple[str, str | None]]:
        """Return (who it is, its answer) of every process, after `patience` seconds; None of those that gave none.

        Called beside the steps, in a thread.
        """
        return []
