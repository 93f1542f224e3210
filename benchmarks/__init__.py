"""Benchmarks: ratios against transformers or a hand-written loop, interleaved in one run, medians."""

from __future__ import annotations

import os
import tempfile

_PLACE = tempfile.TemporaryDirectory(prefix="benchmarks-", ignore_cleanup_errors=True)
os.environ["TMPDIR"] = tempfile.tempdir = _PLACE.name  # what they and their processes leave goes with it
os.chmod(_PLACE.name, 0o711)  # a process that becomes another user comes through
