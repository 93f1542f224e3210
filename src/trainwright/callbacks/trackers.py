"""Experiment trackers: transformers' own callbacks, by the names of `report_to`."""

from __future__ import annotations

from typing import Any

from trainwright.callbacks import job
from trainwright.errors import ConfigError


def tracker_callbacks(report_to: list[str]) -> list[Any]:
    """Return transformers' callback for every tracker that is asked for; none are asked for by default.

    Raises:
        ConfigError: the tracker's package is not installed.
    """
    report_to = [name for name in report_to if name != job.NAME]
    if not report_to:
        return []
    from transformers.integrations import get_reporting_integration_callbacks

    callbacks = []
    for name, kind in zip(report_to, get_reporting_integration_callbacks(report_to), strict=True):
        try:
            callbacks.append(kind())
        except (ImportError, RuntimeError) as error:
            raise ConfigError(
                f"report_to='{name}': its package is not installed ({error}). Install it with: pip install {name}."
            ) from error
    return callbacks
