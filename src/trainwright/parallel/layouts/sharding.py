"""What is asked for of a sharded model, besides how many processes share it."""

from __future__ import annotations

from dataclasses import dataclass

from trainwright.parallel.layouts.layout import Layout


@dataclass(frozen=True)
class Sharding:
    """How a model is sharded by FSDP2.

    Attributes:
        layout: of the processes; None shards over all of them.
        hybrid: whether every machine has a copy of the model, where no layout says it.
        reshard_after_forward: whether a layer's parameters are let go between its forward and backward pass (ZeRO-3),
            and gathered again; otherwise they stay (ZeRO-2).
        reduce_often: whether gradients are reduced in every micro-batch, so that a process holds its part alone of
            them; otherwise once a step, from whole ones.
        param_dtype: the format in which parameters are gathered and used; None for their own.
        reduce_dtype: the format in which gradients are added up; None for that of the parameters in use.
        wrap: which modules are gathered one by one: the transformer's layers, those of a size, or none but the whole.
        layer_names: the classes of these layers; empty for those that the model names, or else the items of its lists.
        min_num_params: parameters of a module that is gathered on its own, with `wrap="size"`.
    """

    layout: Layout | None = None
    hybrid: bool = False
    reshard_after_forward: bool = True
    reduce_often: bool = False
    param_dtype: str | None = None
    reduce_dtype: str | None = None
    wrap: str = "layers"
    layer_names: tuple[str, ...] = ()
    min_num_params: int = 0

    def layout_for(self, processes: int, on_this_machine: int) -> Layout:
        """Return the layout of a number of processes."""
        if self.layout is not None:
            return self.layout
        copies = processes // max(on_this_machine, 1) if self.hybrid else 1
        return Layout(replicate=copies, shard=processes // copies)
