"""Sends alerts: some tries, in a thread of its own, and a sentence where none arrived."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException

from trainwright.jobs.alerts.rules import Rule

FAILURES = (OSError, ValueError, HTTPException, subprocess.SubprocessError)
_WAITS = (0.0, 1.0, 5.0)  # seconds before each try
_WEBHOOK_SECONDS = 10.0
_COMMAND_SECONDS = 60.0


def begin(rule: Rule, told: Mapping[str, str]) -> threading.Thread:
    """Send an alert in the background; return the thread."""
    thread = threading.Thread(target=_send, args=(rule, told), name="trainwright-alert", daemon=True)
    thread.start()
    return thread


def _send(rule: Rule, told: Mapping[str, str]) -> None:
    why = ""
    for wait in _WAITS:
        time.sleep(wait)
        try:
            once(rule, told)
        except FAILURES as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        else:
            return
    print(f"Note: an alert could not be sent ({why}): {told['text']}", file=sys.stderr, flush=True)


def once(rule: Rule, told: Mapping[str, str]) -> None:
    """Send an alert.

    Raises:
        OSError, HTTPException: the webhook cannot be reached, or did not take it.
        ValueError: its address is none.
        SubprocessError: the command failed.
    """
    if rule.webhook:
        body = json.dumps(dict(told)).encode()
        request = urllib.request.Request(rule.webhook, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=_WEBHOOK_SECONDS):
            return
    environment = {**os.environ, **{f"TRAINWRIGHT_ALERT_{name.upper()}": value for name, value in told.items()}}
    subprocess.run(
        rule.command, shell=True, check=True, timeout=_COMMAND_SECONDS, env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
