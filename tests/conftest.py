"""Every test run tokenises anew: its cache of `datasets` is a folder of its own."""

from __future__ import annotations

import os
import tempfile

os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="datasets-")
