"""The second place: what lies there, and how a checkpoint comes there and back.

`ADDRESS/<run>/checkpoint-<step>/` holds the files of a checkpoint, its manifest last, and `ADDRESS/latest.json` names
the run that wrote last and its newest checkpoint. One is whole where it has a manifest and every file in the size that
this tells; its checksums are compared when it comes back.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainwright.checkpoint import folder
from trainwright.checkpoint.layout import MANIFEST
from trainwright.checkpoint.writer import reason_of
from trainwright.errors import ConfigError

LATEST = "latest.json"
Tell = Callable[[], None]  # called whenever something has moved


class NotWholeError(Exception):
    """A checkpoint in a second place cannot be used; the text is the end of a sentence that begins with its name."""


class Remote:
    """A place that fsspec knows, such as `s3://bucket/folder`, `gs://`, `memory://` or a folder.

    Args:
        address: of the place.

    Raises:
        ConfigError: fsspec knows no such place, or a package that it needs is missing.
    """

    def __init__(self, address: str) -> None:
        from fsspec.core import url_to_fs

        self.address = address.rstrip("/")
        try:
            self._files, root = url_to_fs(address)
        except Exception as error:  # what a file system raises is its own
            raise ConfigError(
                f"checkpoint_mirror='{address}' cannot be opened: {reason_of(error)}. Give an address that fsspec "
                "knows (s3://bucket/folder, gs://…, a folder), and install what it needs (s3fs, gcsfs, adlfs)."
            ) from error
        self._root = str(root).rstrip("/")

    def latest(self) -> tuple[str, str] | None:
        """Return the run that wrote last, and its newest checkpoint; None where nothing was written."""
        self._files.invalidate_cache()
        try:
            about = json.loads(self._files.cat_file(f"{self._root}/{LATEST}"))
        except FileNotFoundError:
            return None
        return str(about["run"]), str(about["checkpoint"])

    def point(self, run_id: str, checkpoint: str) -> None:
        """Note the run that wrote last, and its newest checkpoint."""
        self._files.makedirs(self._root, exist_ok=True)
        about = {"run": run_id, "checkpoint": checkpoint}
        self._files.pipe_file(f"{self._root}/{LATEST}", json.dumps(about).encode())

    def checkpoints(self, run_id: str) -> dict[str, dict[str, int]]:
        """Return the bytes of every file of a run's checkpoints, by the names of both."""
        self._files.invalidate_cache()
        root = f"{self._root}/{run_id}"
        found: dict[str, dict[str, int]] = {}
        try:
            files = self._files.find(root, detail=True)
        except FileNotFoundError:
            return {}
        for path, about in files.items():
            checkpoint, _, file = str(path)[len(root) :].lstrip("/").partition("/")
            if file:
                found.setdefault(checkpoint, {})[file] = about["size"]
        return found

    def manifest(self, run_id: str, checkpoint: str, sizes: dict[str, int]) -> dict[str, Any]:
        """Return what the manifest of a checkpoint tells.

        Args:
            run_id: the run.
            checkpoint: the name of the checkpoint.
            sizes: of its files, as `checkpoints` returns them.

        Raises:
            NotWholeError: the checkpoint was not copied to its end.
        """
        if MANIFEST not in sizes:
            raise NotWholeError("was not copied to its end")
        try:
            content = folder.parsed(self._files.cat_file(self._place(run_id, checkpoint, MANIFEST)))
        except ValueError as error:
            raise NotWholeError(f"has a {MANIFEST} that {error}") from error
        wrong = next((name for name, one in content["files"].items() if sizes.get(name) != one["size"]), None)
        if wrong is not None:
            raise NotWholeError(f"has not all of {wrong}")
        return content

    def send(self, run_id: str, checkpoint: str, source: Path, moved: Tell) -> None:
        """Copy a sealed checkpoint, the manifest last; what is there of it is deleted first.

        Args:
            run_id: the run.
            checkpoint: its name there.
            source: the folder with its files.
            moved: called with every piece that has gone.

        Raises:
            FileNotFoundError: the folder is gone.
        """
        if not (source / MANIFEST).exists():
            raise FileNotFoundError(source)
        self.delete(run_id, checkpoint)
        files = sorted(folder.files_in(source), key=lambda path: (path.name == MANIFEST, path))
        for parent in sorted({path.parent for path in files}):
            self._files.makedirs(self._place(run_id, checkpoint, parent.as_posix()), exist_ok=True)
        for path in files:
            target = self._place(run_id, checkpoint, path.as_posix())
            self._files.put_file(str(source / path), target, callback=_progress(moved))
            moved()

    def bring(self, run_id: str, checkpoint: str, files: list[str], target: Path) -> None:
        """Copy the files of a checkpoint into an empty folder here."""
        for name in (*files, MANIFEST):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(self._place(run_id, checkpoint, name), str(target / name))

    def delete(self, run_id: str, checkpoint: str) -> None:
        """Delete a checkpoint, if it is there."""
        place = self._place(run_id, checkpoint)
        if self._files.exists(place):
            self._files.rm(place, recursive=True)

    def _place(self, *parts: str) -> str:
        return "/".join([self._root, *(part for part in parts if part != ".")])


def _progress(moved: Tell) -> Any:
    """Return what fsspec tells of the pieces of a file."""
    from fsspec.callbacks import Callback

    return Callback(hooks={"moved": lambda size, value: moved()})
