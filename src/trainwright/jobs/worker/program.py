"""Runs a Python command in this process, so that it finds what it would find if a person had begun it."""

from __future__ import annotations

import builtins
import io
import runpy
import sys
import types
from collections.abc import Collection, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any


def run(program: Sequence[str], started: Collection[str] = ()) -> None:
    """Run a Python command as the main program; an error in it is an error of this process.

    Args:
        program: the command's words after Python and its options.
        started: the modules that every Python has loaded when it begins.
    """
    if program[0] == "-m":
        _look_first_in(Path.cwd(), str(Path.cwd()), started)
        sys.argv = [*program[1:]]
        _become_main(None)
        runpy._run_module_as_main(program[1])  # type: ignore[attr-defined]  # what `python -m` calls
    elif program[0] == "-c":
        _look_first_in(Path.cwd(), "", started)
        sys.argv = ["-c", *program[2:]]
        exec(compile(program[1], "<string>", "exec", dont_inherit=True), _become_main(None))
    else:
        folder = Path(program[0]).resolve().parent
        _look_first_in(folder, str(folder), started)
        sys.argv = [*program]
        _run_script(program[0])


def _run_script(path: str) -> None:
    if not Path(path).is_file():  # a folder with a __main__.py
        runpy.run_path(path, run_name="__main__")
        return
    with io.open_code(str(Path(path).absolute())) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    exec(code, _become_main(str(Path(path).absolute())))


def _become_main(file: str | None) -> dict[str, Any]:
    """Make an empty module `__main__`, which stays to the end of the process; return its names."""
    module: Any = types.ModuleType("__main__")
    module.__builtins__ = builtins
    if file is not None:
        module.__file__, module.__cached__, module.__loader__ = file, None, SourceFileLoader("__main__", file)
    if hasattr(sys.modules["__main__"], "__annotations__"):  # so the main module of this version of Python has them
        module.__annotations__ = {}
    sys.modules["__main__"] = module
    names: dict[str, Any] = vars(module)
    return names


def _look_first_in(folder: Path, written: str, started: Collection[str]) -> None:
    """Look for modules in a folder first, and forget those that were loaded before and would have been found there."""
    if sys.flags.safe_path:
        return
    sys.path[0] = written
    own = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    own -= {"trainwright", *started}
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        del sys.modules[name]
