"""The buffers of a model that training changes, such as running means and counters.

A step that is not finite leaves them as they were. Those that are not saved with the model (`persistent=False`) are
kept in the checkpoint besides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Place:
    """Where a buffer lives: a forward pass may change its tensor or put another one there.

    Attributes:
        path: its name in the model.
        seen: the tensor when the run began and its version, which every change in place raises.
        digest: of its content then.
        kept: the tensor at the end of the last step.
        copy: of its content then.
    """

    path: str
    module: nn.Module
    name: str
    seen: tuple[torch.Tensor, int] | None = None
    digest: bytes = b""
    kept: torch.Tensor | None = None
    copy: torch.Tensor | None = None

    @property
    def tensor(self) -> torch.Tensor | None:
        """The buffer of now."""
        return self.module._buffers[self.name]

    @property
    def moved(self) -> bool:
        """Whether it was written since the run began."""
        return self.seen is None or self.tensor is not self.seen[0] or _version(self.seen[0]) != self.seen[1]


class Buffers:
    """The buffers of a model: those saved with it are watched from the start, others once they change."""

    def __init__(self, model: nn.Module) -> None:
        saved = model.state_dict(keep_vars=True).keys()
        places = [
            Place(f"{prefix}{'.' if prefix else ''}{name}", module, name)
            for prefix, module in model.named_modules()
            for name, buffer in module._buffers.items()
            if buffer is None or buffer.layout is torch.strided
        ]
        self.watched = [place for place in places if place.path in saved]
        self.unsaved = [place for place in places if place.path not in saved]
        self._still = list(self.unsaved)
        self._now: list[torch.Tensor | None] = []
        self._groups: list[tuple[list[torch.Tensor], list[torch.Tensor]]] = []
        for place in self.unsaved:
            if place.tensor is not None:
                place.seen, place.digest = (place.tensor, _version(place.tensor)), _digest(place.tensor)

    def keep(self) -> None:
        """Copy what is watched, before the forward passes of a step."""
        if not (self._still or self.watched):
            return
        if self._still and (new := [place for place in self._still if place.moved]):
            self.watched += new
            self._still = [place for place in self._still if place not in new]
        now = [place.module._buffers[place.name] for place in self.watched]
        if len(now) != len(self._now) or any(a is not b for a, b in zip(now, self._now, strict=True)):
            self._now = now
            self._group()
        if self._groups:
            with torch.no_grad():
                for copies, buffers in self._groups:
                    torch._foreach_copy_(copies, buffers)

    def _group(self) -> None:
        """Make room for the copies, and sort the buffers by their number format, which copies all of one at once."""
        groups: dict[torch.dtype, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
        for place, buffer in zip(self.watched, self._now, strict=True):
            place.kept = place.copy = buffer
            if buffer is not None:
                place.copy = torch.empty_like(buffer)
                copies, buffers = groups.setdefault(buffer.dtype, ([], []))
                copies.append(place.copy)
                buffers.append(buffer)
        self._groups = list(groups.values())

    def put_back(self, bad: torch.Tensor | bool) -> None:
        """Put back what `keep` copied, where the step was bad; of one that a forward pass has put another tensor for,
        which may be anyone's, nothing is overwritten."""
        if bad is False or not self.watched:
            return
        with torch.no_grad():
            for place in self.watched:
                now, copy, buffers = place.tensor, place.copy, place.module._buffers
                if now is place.kept:
                    if now is not None and copy is not None:
                        now.copy_(copy if bad is True else torch.where(bad, copy, now))
                elif isinstance(bad, torch.Tensor) and now is not None and copy is not None and _alike(now, copy):
                    buffers[place.name] = torch.where(bad, copy, now)
                elif bool(bad):  # one of another form is rare, so that a device may be asked
                    buffers[place.name] = None if copy is None else copy.clone()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the buffers that are not saved with the model and were changed, by name."""
        changed = [(place, place.tensor) for place in self.unsaved if place.moved]
        return {place.path: now for place, now in changed if now is not None and _digest(now) != place.digest}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, torch.Tensor], note: Callable[[str], None]) -> None:
        """Put back what `state_dict` returned; say what this model has no place for."""
        places = {place.path: place for place in self.unsaved}
        if unknown := [name for name in state if name not in places]:
            note(f"The model has no buffer for what the checkpoint keeps of {', '.join(unknown)}.")
        for name, value in state.items():
            if (place := places.get(name)) is None:
                continue
            now = place.tensor
            if now is not None and now.shape == value.shape and now.dtype == value.dtype:
                now.copy_(value)
            else:
                parameter = next(place.module.parameters(), value) if now is None else now
                place.module._buffers[name.rpartition(".")[2]] = value.to(parameter.device)


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _digest(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.blake2b(plain.numpy().tobytes(), digest_size=16).digest()
