"""Archives of checkpoints are those that torch.save writes, whoever computes their sums."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch

from trainwright.checkpoint import archive
from trainwright.checkpoint.snapshot import tensors_in

with_isal = pytest.mark.skipif(archive.crc32 is None, reason="isal is not installed")
shared = torch.arange(40.0)
TREES = {
    "small": {"a": torch.arange(5), "text": "é", "none": torch.empty(0, 3), "scalar": torch.tensor(1.5)},
    "large among small": [torch.ones(3), torch.randn(1 << 17), torch.ones(2), torch.randn(1 << 17).to(torch.bfloat16)],
    "memory that is shared": {"whole": shared, "part": shared[3:7], "turned": shared.view(5, 8).t()},
    "many": {str(number): torch.full((100 + number % 600,), float(number)) for number in range(1200)},  # 90 kB of names
    "what looks like parts of an archive": [
        torch.frombuffer(bytearray(begin + bytes(size)), dtype=torch.uint8)
        for begin in (b"PK\x07\x08", b"PK\x03\x04", b"PK\x01\x02")
        for size in (12, 20, 26, 42)
    ],
    "no tensors": {"step": 3},
}


def written(write, tree):
    file = io.BytesIO()
    write(tree, file)
    return file


@with_isal
@pytest.mark.parametrize("name", TREES)
def test_an_archive_is_that_of_torch_but_for_its_id(name):
    """Record by record, in the same places, with the same sums; the id is a number that torch derives from the sums."""
    assert archive._knows_torch()
    file = written(archive.write_archive, TREES[name])
    with zipfile.ZipFile(file) as ours, zipfile.ZipFile(written(torch.save, TREES[name])) as theirs:
        assert ours.testzip() is None
        for one, other in zip(ours.infolist(), theirs.infolist(), strict=True):
            assert (one.filename, one.header_offset) == (other.filename, other.header_offset)
            if not one.filename.endswith("serialization_id"):
                assert one.CRC == other.CRC
                assert ours.read(one) == theirs.read(other)
    assert len(file.getvalue()) == len(written(torch.save, TREES[name]).getvalue())
    back = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    assert all(torch.equal(one, other) for one, other in zip(tensors_in(back), tensors_in(TREES[name]), strict=True))


@with_isal
@pytest.mark.parametrize("change", ["without isal", "another torch", "other pieces"])
def test_where_torch_or_the_machine_is_another_torch_writes_them(monkeypatch, change):
    archive._knows_torch.cache_clear()
    if change == "without isal":
        monkeypatch.setattr(archive, "crc32", None)
    elif change == "another torch":
        monkeypatch.delattr(archive._Archive, "write_record")
    else:
        monkeypatch.setattr(archive, "_BEHIND", b"PK\x07\x09")
    try:
        assert not archive._knows_torch()
        tree = TREES["small"]
        assert written(archive.write_archive, tree).getvalue() == written(torch.save, tree).getvalue()
    finally:
        archive._knows_torch.cache_clear()
