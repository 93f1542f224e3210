"""Jobs: any script tracked, queued, stopped and resumed."""

from __future__ import annotations

import importlib
from typing import Any

_PLACES = {"tlab_trainer": "decorator", "JobStopped": "tracking", "Store": "store", "tracked": "tracking"}
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'trainwright.jobs' has no attribute '{name}'")
    return getattr(importlib.import_module(f"trainwright.jobs.{_PLACES[name]}"), name)
