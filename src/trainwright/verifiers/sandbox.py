"""Runs Python code that nobody has read: without network, without files but Python's own library, within limits.

A script of its own, `python -I sandbox.py SECONDS MEGABYTES`, of the standard library alone. It reads a word and the
code from its input, and prints the word when the code has ended by itself. What it takes away comes before the code:
user, network, process and IPC namespaces of its own (Linux), Landlock for files (Linux 5.13), and resource limits.
"""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

_NAMESPACES = 0x10000000 | 0x40000000 | 0x20000000 | 0x08000000  # user, network, processes, IPC
_CREATE, _ADD, _RESTRICT = 444, 445, 446  # Landlock's system calls, the same on all architectures
_OLDEST_RIGHTS, _READ = (1 << 13) - 1, 0b1101  # all of Landlock's first version; execute, read files and folders
_LATER_RIGHTS = {2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_DIE_WITH_PARENT, _NO_NEW_PRIVILEGES = 1, 38


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64),)


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def isolate(readable: list[str]) -> None:
    """Go on in a child without network, other processes, and files but those in some folders.

    Raises:
        OSError: the system cannot do it.
    """
    library = ctypes.CDLL(None, use_errno=True)

    def called(result: int, what: str) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")
        return result

    called(library.unshare(_NAMESPACES), "namespaces")
    version = called(library.syscall(_CREATE, None, 0, 1), "Landlock")
    rights = _OLDEST_RIGHTS
    for since, right in _LATER_RIGHTS.items():
        rights |= right if version >= since else 0
    ruleset = _Ruleset(rights)
    rules = called(library.syscall(_CREATE, ctypes.byref(ruleset), ctypes.sizeof(ruleset), 0), "Landlock")
    for folder in readable:
        beneath = _Beneath(_READ, os.open(folder, os.O_PATH | os.O_CLOEXEC))
        called(library.syscall(_ADD, rules, 1, ctypes.byref(beneath), 0), "Landlock")
    called(library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "privileges")
    called(library.syscall(_RESTRICT, rules, 0), "Landlock")
    child = os.fork()
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    called(library.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0), "death")


def main() -> None:
    """Run the code of the input."""
    seconds, megabytes = float(sys.argv[1]), int(sys.argv[2])
    word, _, code = sys.stdin.read().partition("\n")
    folders = {*sys.path, sys.prefix, sys.base_prefix, "/lib", "/lib64", "/usr/lib"}
    isolate([one for one in folders if one and Path(one).is_dir()])
    for kind, most in (
        (resource.RLIMIT_CPU, int(seconds) + 1), (resource.RLIMIT_AS, megabytes << 20), (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 32), (resource.RLIMIT_CORE, 0),
    ):  # fmt: skip
        resource.setrlimit(kind, (most, most))
    answer = os.dup(1)
    os.dup2(2, 1)
    exec(compile(code, "completion", "exec"), {"__name__": "completion"})
    os.write(answer, word.encode())


if __name__ == "__main__":
    main()
