"""The tensors of a model in its files, which may be others than in memory: transformers keeps all experts of a layer in
one tensor, and its files have each apart.

A checkpoint has them as they lie in memory, so that each process reads its part, and `from_pretrained` takes that form
too. What is saved to be given on has those of the architecture's files; they are made of whole tensors of memory, those
of one module at a time, by the process that owns them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from trainwright.checkpoint.model import weights
from trainwright.checkpoint.model.tensors import identity
from trainwright.models.inspect import is_pretrained


class Group(NamedTuple):
    """Tensors that go into the same file together.

    Attributes:
        names: in memory.
        files: the names in the files.
        converted: whether the files hold other tensors, and not the same under these names.
    """

    names: tuple[str, ...]
    files: tuple[str, ...]
    converted: bool = False


def stand_ins(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors of the same names, shapes, types and ties, without the numbers."""
    made: dict[Any, torch.Tensor] = {}
    for tensor in state.values():
        made.setdefault(identity(tensor), torch.empty(1, dtype=tensor.dtype).expand(tensor.shape))
    return {name: made[identity(tensor)] for name, tensor in state.items()}


def groups_of(model: Any, state: Mapping[str, torch.Tensor], to_give_on: bool = False) -> list[Group]:
    """Return what the files of a model hold of its state, tied tensors once; alike on every process.

    Args:
        model: of transformers, or a user's own.
        state: its own tensors, by their names in memory.
        to_give_on: whether the files are those that the architecture has everywhere, and not a checkpoint's, which
            hold all as memory does where those hold other tensors.
    """
    if not is_pretrained(model):
        found: dict[Any, str] = {}
        for name, tensor in state.items():
            found.setdefault(identity(tensor), name)
        return [Group((name,), (name,)) for name in found.values()]
    kept = weights.kept_in_files(model, stand_ins(state))
    saved = weights.in_file_form(model, kept)
    names = {id(tensor): name for name, tensor in saved.items()}
    same = [Group((name,), (names[id(tensor)],)) for name, tensor in kept.items() if id(tensor) in names]
    others = [name for name, tensor in kept.items() if id(tensor) not in names]
    if others and not to_give_on:
        return in_memory(kept)
    modules: dict[str, list[str]] = {}
    for name in others:
        modules.setdefault(name.rpartition(".")[0], []).append(name)
    made = {tuple(one): weights.in_file_form(model, {name: kept[name] for name in one}) for one in modules.values()}
    shapes = {name: tensor.shape for part in made.values() for name, tensor in part.items()}
    taken = {group.files[0] for group in same}
    if shapes != {name: tensor.shape for name, tensor in saved.items() if name not in taken}:
        return [*same, *in_memory(others)]  # what is made of several modules stays as it is
    return [*same, *(Group(names, tuple(part), converted=True) for names, part in made.items())]


def in_memory(names: Iterable[str]) -> list[Group]:
    """Return tensors that the files hold as memory does."""
    return [Group((name,), (name,)) for name in names]


def in_files(model: Any, groups: Iterable[Group], owned: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of some groups as the files hold them, made of whole ones, which leave the dictionary."""
    found: dict[str, torch.Tensor] = {}
    for group in groups:
        own = {name: owned.pop(name) for name in group.names}
        made = weights.in_file_form(model, own) if group.converted else {group.files[0]: own[group.names[0]]}
        found |= {name: tensor.contiguous() for name, tensor in made.items()}
    return found
