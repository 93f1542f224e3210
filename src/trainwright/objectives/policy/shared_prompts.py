"""Completions of one prompt in a forward pass that computes the prompt once: what they attend to begins with it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from trainwright.batch import IGNORED
from trainwright.objectives.language import FusedLoss, Labelled
from trainwright.objectives.padding_free import Flat, Layout, ends_in_padding

Rows = Mapping[str, torch.Tensor]
_SAME = {4: 1e-4, 2: 5e-2}  # difference of hidden states by their size, by bytes of a number


def labelled(fused: FusedLoss, model: nn.Module, rows: Rows) -> Labelled:
    """Return the targets of rows and what predicts them, as `FusedLoss.labelled`.

    Rows that are alike before their first label share what is computed of that, where the kernel can and the model
    gives the same so, which is tried once. Not in float64, which is asked for where a step is to be the same to many
    digits however it is cut: transformers' norms are of float32, and the last bit of what they are given changes those.
    """
    told = fused.flat_rows
    may = fused.shares is not False and fused.head.layer.weight.element_size() in _SAME
    layout = shared(rows) if may and told is not None and told.goes_on else None
    if layout is None:
        return fused.labelled(model, rows)
    if fused.shares is None:
        fused.shares = _is_the_same(fused, getattr(model, "module", model), rows, layout)
        return labelled(fused, model, rows)
    return fused.labelled(model, rows, layout)


@torch.no_grad()
def _is_the_same(fused: FusedLoss, model: nn.Module, rows: Rows, layout: Layout) -> bool:
    """Whether hidden states are the same with and without shared prompts: not where tokens meet otherwise than by
    attention."""
    usual, found = fused.labelled(model, rows).hidden, fused.labelled(model, rows, layout).hidden
    return bool((usual - found).abs().max() <= _SAME[usual.element_size()] * usual.abs().max())


def shared(rows: Rows) -> Layout | None:
    """Return rows one after another, what several begin with once; None where none do, or a row has no label.

    Args:
        rows: input_ids, attention_mask and labels, padded on the right; shape (rows, tokens).
    """
    targets = rows["labels"] != IGNORED
    if not ends_in_padding(rows) or not bool(targets.any(dim=1).all()) or bool(targets[:, 0].any()):
        return None
    ends, starts = rows["attention_mask"].sum(dim=1).tolist(), targets.int().argmax(dim=1).tolist()
    parts, positions, begins = list[torch.Tensor](), list[torch.Tensor](), list[int | None]()
    places, index = dict[tuple[int, ...], tuple[int, int]](), list[torch.Tensor]()
    width = 0
    for ids, wanted, start, end in zip(rows["input_ids"], targets, starts, ends, strict=True):
        prompt = tuple(ids[:start].tolist())
        if prompt not in places:
            places[prompt] = len(parts), width + start - 1  # its document, and its last token in the row
            parts.append(ids[:start])
            positions.append(torch.arange(start))
            begins.append(None)
            width += start
        document, last = places[prompt]
        before = torch.cat([torch.tensor([last]), torch.arange(width, width + end - start - 1)])  # what predicts each
        index.append(before[wanted[start:end]])
        parts.append(ids[start:end])
        positions.append(torch.arange(start, end))
        begins.append(document)
        width += end - start
    if len(places) == len(ends):
        return None
    row = torch.cat(parts)[None]
    flat = Flat(row, torch.cat(positions)[None], torch.full_like(row, IGNORED), list(map(len, parts)), begins)
    return Layout(flat, (1, width), torch.cat(index), rows["labels"][targets])
