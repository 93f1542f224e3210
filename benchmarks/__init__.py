"""Benchmarks: ratios against transformers or a hand-written loop, interleaved in one run, medians."""

from __future__ import annotations

import os
import shutil
import tempfile
from multiprocessing.util import Finalize

_PLACE = tempfile.mkdtemp(prefix="benchmarks-")
os.environ["TMPDIR"] = tempfile.tempdir = _PLACE  # what they and their processes leave goes with it
os.chmod(_PLACE, 0o711)  # a process that becomes another user comes through
Finalize(None, shutil.rmtree, (_PLACE, True), exitpriority=-200)  # after multiprocessing's own folder in it, at -100
