"""What general compressors make of the held-out text."""

from __future__ import annotations

import gzip
import lzma


def yardsticks(text: str) -> dict[str, float]:
    """Return the bits per byte that gzip -9 and xz -9 need for a text, which they see only as they compress it."""
    whole = text.encode()
    return {
        "gzip": 8 * len(gzip.compress(whole, 9)) / len(whole),
        "xz": 8 * len(lzma.compress(whole, preset=9)) / len(whole),
    }
