"""`trainer.accelerator`, for code written for accelerate. The engine never uses it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn

from trainwright.errors import ConfigError
from trainwright.evaluation.prediction_buffer import finished, grown, to_arrays
from trainwright.models.inspect import unwrapped
from trainwright.session.session import Session


class Accelerator:
    """The calls that touch the run go to its own strategy and scaler; all others to a real `accelerate.Accelerator`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._real: Any = None

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self._session.strategy.device

    @property
    def num_processes(self) -> int:
        """Number of processes of the run."""
        return self._session.args.world_size

    @property
    def process_index(self) -> int:
        """Rank of this process."""
        return self._session.args.process_index

    @property
    def is_main_process(self) -> bool:
        """Whether this is the main process."""
        return self._session.strategy.is_main

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        """Add the gradients of a loss, scaled where float16 needs it."""
        self._session.precision.backward(loss)

    def clip_grad_norm_(
        self, parameters: Iterable[nn.Parameter], max_norm: float, norm_type: float = 2
    ) -> torch.Tensor:
        """Clip gradients and return their norm before, a scalar.

        Raises:
            ConfigError: by another norm than that of the squares, which is the strategy's to take where a model is
                spread over processes.
        """
        if norm_type != 2:
            raise ConfigError(
                f"accelerator.clip_grad_norm_(norm_type={norm_type}): gradients are clipped by the 2-norm alone. Leave "
                "norm_type out, or call torch.nn.utils.clip_grad_norm_."
            )
        self._session.precision.unscale(self._session.optimizer)
        return self._session.strategy.clip_gradients(list(parameters), max_norm)[0]

    def gather_for_metrics(self, value: Any) -> Any:
        """Return a value of all processes, joined along the first dimension."""
        joined: Any = None
        for one in self._session.strategy.gather(to_arrays(value)):
            joined = grown(joined, one)
        joined = finished(joined)
        return torch.from_numpy(joined) if isinstance(value, torch.Tensor) else joined

    def unwrap_model(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the model inside of what strategy, compiler and torch's data parallelism wrapped around it."""
        if model is self._session.model_wrapped:
            return self._session.model
        return unwrapped(model)

    def get_state_dict(self, model: Any, unwrap: bool = True) -> dict[str, torch.Tensor]:
        """Return the weights of a model, by name. Of one that processes share they are whole, on the host of the first
        process, and nothing on the others: all of them call it."""
        model = self.unwrap_model(model)
        if not self._session.strategy.shards_state:
            return dict(model.state_dict())
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return cast(dict[str, torch.Tensor], get_model_state_dict(model, options=whole))

    def wait_for_everyone(self) -> None:
        """Wait until every process is here."""
        self._session.strategy.barrier()

    def __getattr__(self, name: str) -> Any:
        if self._real is None:
            try:
                import accelerate
            except ImportError:
                raise ConfigError(
                    f"trainer.accelerator.{name} needs the package accelerate: pip install accelerate."
                ) from None
            self._real = accelerate.Accelerator(cpu=self.device.type == "cpu")
        return getattr(self._real, name)


def of(session: Session) -> Accelerator:
    """Return the trainer's accelerator, made on first use."""
    made: Accelerator = session.accelerator or Accelerator(session)
    session.accelerator = made
    return made
