"""Jobs: any script tracked, queued, stopped and resumed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainwright.jobs.outcomes import JobStopped as JobStopped
    from trainwright.jobs.store.store import Store as Store
    from trainwright.jobs.tracking.decorator import tlab_trainer as tlab_trainer
    from trainwright.jobs.tracking.runs import Run as Run
    from trainwright.jobs.tracking.runs import init as init
    from trainwright.jobs.tracking.tracking import tracked as tracked
    from trainwright.jobs.tracking.transformerlab import lab as lab

_PLACES = {
    "tlab_trainer": "tracking.decorator",
    "lab": "tracking.transformerlab",
    "init": "tracking.runs",
    "Run": "tracking.runs",
    "JobStopped": "outcomes",
    "Store": "store.store",
    "tracked": "tracking.tracking",
}

if not TYPE_CHECKING:
    __all__ = list(_PLACES)

    def __getattr__(name: str) -> Any:
        if name not in _PLACES:
            raise AttributeError(f"module 'trainwright.jobs' has no attribute '{name}'")
        return getattr(importlib.import_module(f"trainwright.jobs.{_PLACES[name]}"), name)
