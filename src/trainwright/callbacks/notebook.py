"""In a notebook: the bar and the table that people know from transformers, which draws them."""

from __future__ import annotations

import re
import sys
from typing import Any

_NO_COLUMN = re.compile(r"_generation_step$|_\d+_to_\d+_tokens$")  # of an evaluation by generation, in a table of steps


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config


def notebook_callback() -> Any:
    """Return transformers' callback for notebooks, which here leaves the metrics of an evaluation as they are."""
    from transformers.utils.notebook import NotebookProgressCallback

    class NotebookCallback(NotebookProgressCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
            shown = {name: value for name, value in (metrics or {}).items() if not _NO_COLUMN.search(name)}
            try:
                super().on_evaluate(args, state, control, metrics=shown, **kwargs)
            except RuntimeError:
                if self.training_tracker is not None:
                    raise  # an older transformers only misses the training, and shows nothing of an evaluation alone

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if self.training_tracker is not None:  # an evaluation without training logs too
                super().on_log(args, state, control, logs=logs, **kwargs)

        def on_error(self, *given: Any, **kwargs: Any) -> None:
            self.training_tracker = self.prediction_bar = None

    return NotebookCallback()
