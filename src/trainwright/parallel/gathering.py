"""Gathering the layers of a sharded model so that one process may begin a pass anew while the others go on in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import distributed


class CountedGather:
    """The all-gather of FSDP2 (`FSDPModule.set_custom_all_gather`), which knows how many of a pass are done.

    Where memory runs out in the midst of a pass, the other processes wait for this one's part of the layers that come.
    It begins the pass anew with less data, and leaves out those gathers in which it has taken part: their numbers are
    0, and what it computes is thrown away.
    """

    def __init__(self) -> None:
        self._done = self._left_out = 0

    def begin(self) -> None:
        """Note that a pass begins."""
        self._done = self._left_out = 0

    def again(self) -> None:
        """Note that the pass, which has broken off here, begins anew."""
        self._done, self._left_out = 0, self._done

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Return memory for a layer."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: distributed.ProcessGroup,
        async_op: bool = False,
    ) -> distributed.Work | None:
        """Gather every process's part of a layer."""
        work = None
        if self._done < self._left_out:
            output_tensor.zero_()
        else:
            work = distributed.all_gather_into_tensor(output_tensor, input_tensor, group, async_op)
        self._done += 1
        return work
