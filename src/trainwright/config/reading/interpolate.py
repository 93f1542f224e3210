"""`${training.seed}` in a file stands for another value of it; OmegaConf knows how."""

from __future__ import annotations

import re
from typing import Any

from trainwright.config.reading.tree import Diagnostics, Tree, leaves, plain
from trainwright.errors import did_you_mean

_FIRST_NAME = re.compile(r"\$\{\s*(\w+)")


def interpolate(tree: Tree, sections: list[str], defaults: dict[str, Any], problems: Diagnostics) -> None:
    """Replace every text that refers to a key of the file or to `${oc.env:NAME}`; other `${...}` stay as they are.

    Args:
        tree: the whole file, changed in place.
        sections: names of the top-level sections; `${x}` with another first name is text, as in a prompt.
        defaults: what the keys are that the file does not give.
        problems: takes references to keys that do not exist.
    """
    dollars = [leaf for leaf in leaves(tree) if isinstance(leaf.value, str) and "${" in leaf.value]
    referring = [leaf for leaf in dollars if _refers(leaf.value, sections)]
    if not referring:
        return
    from omegaconf import OmegaConf
    from omegaconf.errors import GrammarParseError, OmegaConfBaseException

    for leaf in list(referring):
        try:
            OmegaConf.create([leaf.value])
        except GrammarParseError:
            what = f"{leaf.value!r} holds a reference that cannot be read"
            problems.add(leaf.place, what, "write ${section.key}", len(leaf.value))
            leaf.value = ""
            referring.remove(leaf)
    everything: Any = OmegaConf.merge(
        *(OmegaConf.create(_without_other_dollars(one, sections)) for one in (defaults, plain(tree)))
    )
    for leaf in referring:
        try:
            value = dict(OmegaConf.merge(everything, {"_asked": leaf.value}))["_asked"]
        except OmegaConfBaseException as error:
            name = leaf.value.split("${")[1].split("}")[0]
            known = [f"{section}.{key}" for section in sections for key in (everything.get(section) or {})]
            what = "has no value" if name in known else "refers to something that is not there"
            hint = "" if name in known else did_you_mean(name, known).strip()
            reason = hint or str(error).splitlines()[0]
            problems.add(leaf.place, f"{leaf.value!r} {what}", reason, len(leaf.value))
            continue
        leaf.raw, leaf.is_resolved = None, True
        leaf.value = str(value) if OmegaConf.is_config(value) else value


def _refers(text: str, sections: list[str]) -> bool:
    names = _FIRST_NAME.findall(text)
    return len(names) == text.count("${") and all(name in sections or name == "oc" for name in names)


def _without_other_dollars(value: Any, sections: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without_other_dollars(one, sections) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_other_dollars(one, sections) for one in value]
    return "" if isinstance(value, str) and "${" in value and not _refers(value, sections) else value
