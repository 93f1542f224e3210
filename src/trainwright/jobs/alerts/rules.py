"""The alerts that a user wants, in `~/.trainwright/alerts.yaml`."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainwright.errors import JobError, did_you_mean
from trainwright.jobs import paths
from trainwright.jobs.status import ENDED

FILE = "alerts.yaml"
_BOUND = re.compile(r"(?P<name>\S.*?)\s*(?P<sign><=|>=|<|>)\s*(?P<value>[^\s<>=]+)")
_HINT = "It is written so: metric: eval/loss > 3."


@dataclass(frozen=True)
class Rule:
    """One alert.

    Attributes:
        on: statuses of which it tells.
        stuck: seconds without a step, a metric or progress after which a running job is told of; 0 for never.
        metric: a bound, `eval/loss > 3`; a value that is no number is beyond it. Empty for none.
        jobs: only of jobs whose name, experiment or id holds this text.
        webhook: an address that gets a POST of JSON with `text` and what happened.
        command: a shell's command, which has the same in its environment as TRAINWRIGHT_ALERT_...
        added: when; what happened before is not told of.
    """

    on: tuple[str, ...] = ()
    stuck: float = 0.0
    metric: str = ""
    jobs: str = ""
    webhook: str = ""
    command: str = ""
    added: float = 0.0

    @property
    def key(self) -> str:
        """A short name that follows from what it says."""
        told = {name: value for name, value in asdict(self).items() if name != "added"}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]

    def __str__(self) -> str:
        """Return it in words."""
        when = [
            *self.on,
            *([f"stuck for {self.stuck:g} s"] if self.stuck else []),
            *([self.metric] if self.metric else []),
        ]
        of = f" of jobs with '{self.jobs}'" if self.jobs else ""
        return f"{', '.join(when)}{of}: {self.webhook or self.command}"

    def is_beyond(self, value: float | None) -> bool:
        """Whether a value of its metric is beyond the bound; one that is no number is."""
        found = _BOUND.fullmatch(self.metric)
        assert found is not None
        if value is None or math.isnan(value):
            return True
        bound = float(found["value"])
        return {"<": value < bound, "<=": value <= bound, ">": value > bound, ">=": value >= bound}[found["sign"]]

    @property
    def metric_name(self) -> str:
        """The metric of its bound."""
        found = _BOUND.fullmatch(self.metric)
        return found["name"] if found else ""


def checked(given: Mapping[str, Any]) -> Rule:
    """Return the alert that names and values describe.

    Raises:
        JobError: they describe none.
    """
    names = [one.name for one in fields(Rule)]
    for name in given:
        if name not in names:
            raise JobError(f"An alert has no '{name}'.{did_you_mean(str(name), names)} It has {', '.join(names)}.")
    on = given.get("on") or ()
    statuses = tuple(str(one).upper() for one in (on if isinstance(on, list | tuple) else [on]))
    wrong = [one for one in statuses if one not in ENDED]
    if wrong:
        raise JobError(
            f"'{wrong[0]}' is no status that a job ends with.{did_you_mean(wrong[0], ENDED)} {', '.join(ENDED)} are."
        )
    metric = str(given.get("metric") or "").strip()
    found = _BOUND.fullmatch(metric)
    if metric and (found is None or not _is_number(found["value"])):
        raise JobError(f"'{metric}' is no bound of a metric. {_HINT}")
    stuck = given.get("stuck") or 0.0
    if not _is_number(stuck) or float(stuck) < 0:
        raise JobError(f"stuck: {stuck!r}: seconds are expected.")
    if not _is_number(given.get("added") or 0.0):
        raise JobError(f"added: {given['added']!r}: seconds since 1970 are expected.")
    rule = Rule(statuses, float(stuck), metric, str(given.get("jobs") or ""), str(given.get("webhook") or ""),
                str(given.get("command") or ""), float(given.get("added") or 0.0))  # fmt: skip
    if not (rule.on or rule.stuck or rule.metric):
        raise JobError("An alert needs something to tell of: on: [FAILED, LOST], stuck: 600 or metric: eval/loss > 3.")
    if bool(rule.webhook) == bool(rule.command):
        raise JobError("An alert needs a webhook or a command, and not both.")
    if rule.webhook and not _is_address(rule.webhook):
        raise JobError(f"{rule.webhook!r} is no address of a webhook, such as https://hooks.example.org/T0.")
    return rule


def read() -> list[Rule]:
    """Return the alerts of this user's file; none where there is none. One without `added` is as old as the file.

    Raises:
        JobError: the file is not to be understood.
    """
    import yaml

    path = file()
    try:
        when = path.stat().st_mtime
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except FileNotFoundError:
        return []
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise JobError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise JobError(f"{path}: a list of alerts is expected, each with names and values.")
    try:
        named = [{"on" if name is True else name: value for name, value in one.items()} for one in found]
        return [checked({"added": when, **one}) for one in named]  # YAML takes a bare `on` for true
    except JobError as error:
        raise JobError(f"{path}: {error}") from None


def write(rules: list[Rule]) -> None:
    """Keep alerts in the file, which is this user's alone: an address of a webhook may be a secret."""
    import yaml

    path = file()
    paths.make(path.parent)
    told = [
        {name: list(value) if name == "on" else value for name, value in asdict(one).items() if value} for one in rules
    ]
    whole = path.with_suffix(".new")
    whole.touch(mode=0o600)
    whole.write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
    whole.replace(path)


def add(**given: Any) -> Rule:
    """Keep one more alert, from now on.

    Raises:
        JobError: it is none, or there already.
    """
    rule = checked({**given, "added": time.time()})
    known = read()
    if rule.key in [one.key for one in known]:
        raise JobError(f"This alert is there already: {rule.key}.")
    write([*known, rule])
    return rule


def remove(key: str) -> Rule:
    """Forget an alert, by its key.

    Raises:
        JobError: there is none.
    """
    known = read()
    rule = next((one for one in known if one.key == key), None)
    if rule is None:
        meant = did_you_mean(key, [one.key for one in known])
        raise JobError(f"There is no alert '{key}'.{meant} trainwright alerts list shows them.")
    write([one for one in known if one.key != key])
    return rule


def file() -> Path:
    """Return where the alerts are kept."""
    return paths.home() / FILE


def _is_address(webhook: str) -> bool:
    """Whether a request can be sent there: a scheme, a host and a port that there can be, and no blank in it."""
    try:
        found = urlsplit(webhook)
        good = found.scheme in ("http", "https") and bool(found.hostname) and found.port != 0
    except ValueError:
        return False
    return good and webhook.isascii() and webhook.isprintable() and " " not in webhook


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)
