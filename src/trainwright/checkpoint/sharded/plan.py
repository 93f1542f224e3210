"""Who writes what of a state that is spread over processes: pure functions of what each of them holds.

Every process computes the same plan from the boxes of all, so that nothing else is exchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from trainwright.parallel.layouts.boxes import Box

Boxes = Mapping[str, Box]  # what a process holds, by the tensors' names


def owners(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """Return whose file every whole tensor goes into: the largest first, each to the process with the fewest bytes.

    Args:
        sizes: bytes of every tensor.
        count: processes.
    """
    loads, found = [0] * count, {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        found[name] = loads.index(min(loads))
        loads[found[name]] += sizes[name]
    return found


def sources(name: str, owner: int, everyone: Sequence[Boxes]) -> dict[Box, int]:
    """Return who gives the owner of a tensor which part of it: of replicas its own, or else that of the nearest
    process."""
    found: dict[Box, int] = {}
    for process, boxes in enumerate(everyone):
        box = boxes[name]
        if box.numel and (box not in found or abs(process - owner) < abs(found[box] - owner)):
            found[box] = process
    return found


def writers(everyone: Sequence[Boxes], widths: Mapping[str, int]) -> list[set[str]]:
    """Return the names of which every process writes what it holds: each part once, replicas spread evenly.

    Args:
        everyone: what each process holds.
        widths: bytes of an element of every tensor.
    """
    holders: dict[tuple[str, Box], list[int]] = {}
    for process, boxes in enumerate(everyone):
        for name, box in boxes.items():
            if box.numel:
                holders.setdefault((name, box), []).append(process)
    loads: list[int] = [0] * len(everyone)
    found: list[set[str]] = [set() for _ in everyone]
    for (name, box), processes in sorted(holders.items()):
        chosen = min(processes, key=lambda process: (loads[process], process))
        loads[chosen] += box.numel * widths[name]
        found[chosen].add(name)
    return found


def in_groups(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Yield names in their order, together as long as what they name is not larger than `most`; one alone may be."""
    group: list[str] = []
    total = 0
    for name, size in sizes.items():
        if group and total + size > most:
            yield group
            group, total = [], 0
        group.append(name)
        total += size
    if group:
        yield group
