"""Training from the page: a recipe's or a file's values in a form, checked by `trainwright check`, queued as a job."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import Response

from trainwright.errors import JobError
from trainwright.jobs.store.store import Store
from trainwright.jobs.web.answers import answered, as_json, error_of, is_argument
from trainwright.jobs.worker import queue

RECIPES = Path(__file__).parents[2] / "recipes"
SCHEMA = RECIPES / "run.schema.json"
_OTHER_TASKS = ("algebra.yaml", "demo.yaml", "imitation.yaml")  # which other commands train
_SECTIONS = ("model", "data", "training", "peft")
_CHECK_SECONDS = 60
_MOST_FILES = 50
_LARGEST = 262_144


class Forms:
    """The form of a run; files are those of the folder where the server was begun.

    Args:
        store: the database.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.checking = anyio.Lock()

    def form(self, _: Request) -> Any:
        """What the form is made of: files and recipes with their values, and every key with its type and its words."""
        files = [{"name": path.name, "kind": kind, "values": _values(path)} for kind, path in _files()]
        return {"folder": str(Path.cwd()), "files": files, "keys": keys()}

    async def check(self, request: Request) -> Response:
        """Say what `trainwright check` says of a file with the form's values."""
        try:
            file, overrides = _asked(await request.json())
        except JobError as error:
            return error_of(409, str(error))
        except (ValueError, TypeError, KeyError):
            return error_of(400, "JSON with a `file` and `values` is expected.")
        words = [sys.executable, "-m", "trainwright", "check", str(file), *overrides]
        async with self.checking:
            with anyio.move_on_after(_CHECK_SECONDS):
                done = await anyio.run_process(words, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, check=False)
                text = done.stdout.decode(errors="replace").replace(str(file), file.name)
                told = {"good": done.returncode == 0, "text": text.strip()}
                return Response(as_json(told), media_type="application/json")
        return error_of(503, f"The check took longer than {_CHECK_SECONDS} seconds.")

    async def train(self, request: Request) -> Response:
        """Put the run that the form describes into the queue."""
        try:
            body = await request.json()
            file, overrides = _asked(body)
        except JobError as error:
            return error_of(409, str(error))
        except (ValueError, TypeError, KeyError):
            return error_of(400, "JSON with a `file` and `values` is expected.")
        name = str(body.get("name") or "") or None
        return await anyio.to_thread.run_sync(
            answered, lambda: {"id": queue.submit(self.store, file, {}, overrides, name=name)}, 409
        )


def keys() -> list[dict[str, Any]]:
    """Return the keys of a run's file by dotted name: `type` (number, integer, boolean, choice or text), `choices`,
    `words` that say what it is."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return [key for section in _SECTIONS for key in _keys_of(section, schema["properties"][section])]


def _keys_of(name: str, schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    if schema.get("deprecated"):
        return []
    if "properties" in schema:
        return [key for one, inner in schema["properties"].items() for key in _keys_of(f"{name}.{one}", inner)]
    items = schema.get("items", {})
    if "properties" in items:
        return _keys_of(f"{name}[0]", items)
    kinds = [*_kinds(schema)]
    choices: list[Any] = next((one["enum"] for one in kinds if "enum" in one), [])
    types = {one.get("type") for one in kinds if isinstance(one.get("type"), str)}
    kind = next((one for one in ("boolean", "number", "integer") if one in types), "text")
    words = schema.get("description", "")
    return [{"name": name, "type": "choice" if choices else kind, "choices": choices, "words": words}]


def _kinds(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what a value may be, without the patterns of texts that stand for it."""
    inner = [one for part in schema.get("anyOf", []) for one in _kinds(part)]
    return inner or ([] if "pattern" in schema else [schema])


def _files() -> list[tuple[str, Path]]:
    """Return the YAML files of this folder that may be a run's, then the recipes."""
    own = [path for path in sorted(Path.cwd().glob("*.y*ml")) if path.suffix in queue.YAML and path.is_file()]
    good = [("file", path) for path in own[:_MOST_FILES] if path.stat().st_size <= _LARGEST and _is_run(path)]
    recipes = [path for path in sorted(RECIPES.glob("*.yaml")) if path.name not in _OTHER_TASKS]
    return [*good, *(("recipe", path) for path in recipes)]


def _is_run(path: Path) -> bool:
    return bool({*_read(path)} & {*_SECTIONS})


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _values(path: Path) -> dict[str, Any]:
    """Return what a file gives, by dotted name."""
    return dict(_flat("", _read(path)))


def _flat(name: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [pair for key, inner in value.items() for pair in _flat(f"{name}.{key}" if name else str(key), inner)]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [pair for at, inner in enumerate(value) for pair in _flat(f"{name}[{at}]", inner)]
    return [(name, value)]


def _asked(body: Mapping[str, Any]) -> tuple[Path, list[str]]:
    """Return the file of a request and what is changed of it, as a command line says it.

    Raises:
        JobError: there is no such file, a name is none of a key, or a value is none of a command line.
        TypeError: it is no request.
    """
    if not isinstance(body, dict):
        raise TypeError
    wanted = (body.get("kind"), body["file"])
    file = next((path for kind, path in _files() if (kind, path.name) == wanted), None)
    if file is None:
        raise JobError(f"There is no {wanted[0]} '{wanted[1]}' to train.")
    overrides = []
    for name, text in dict(body.get("values", {})).items():
        if not name.replace(".", "").replace("_", "").replace("[", "").replace("]", "").isalnum():
            raise JobError(f"{name!r} is no name of a key.")
        if not is_argument(text):
            raise JobError(f"The value of {name} holds what no command line can.")
        overrides.append(f"{name}={text}")
    return file, overrides
