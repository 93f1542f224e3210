"""Every test run tokenises anew: its caches are folders of their own."""

from __future__ import annotations

import os
import tempfile

os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="datasets-")
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="cache-")
os.environ["TRAINWRIGHT_HOME"] = tempfile.mkdtemp(prefix="jobs-")
os.environ["TRAINWRIGHT_JOBS"] = "off"  # tests of jobs switch it on
