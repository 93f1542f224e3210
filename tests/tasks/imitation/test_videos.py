"""LeRobot's folders with videos: frames are those of one pass through the file, wherever and however often they are
asked for; a run on them goes on bitwise, its augmentation included."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trainwright import DataError
from trainwright.tasks.imitation import videos
from trainwright.tasks.imitation.episodes import read_episodes
from trainwright.tasks.imitation.run import build

RATE, SIZE, NAME = 10, (32, 48), "observation.images.top"
LENGTHS = (13, 9, 11)


def moving(count, seed):
    """Frames of a bright square on noise, which no codec makes alike."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 80, (count, *SIZE, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        frame[8:16, 2 * number : 2 * number + 8] = 255
    return frames


def write_video(file, frames, gap):
    av = pytest.importorskip("av", reason="PyAV is not installed (pip install av)")
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as content:
        stream = content.add_stream("mpeg4", rate=RATE)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = *SIZE, "yuv420p", gap
        for frame in frames:
            content.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        content.mux(stream.encode())


def write(folder, version, gap=6):
    """A folder as LeRobot writes it: version 3 has all episodes in one file, version 2 a file for each."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    starts = np.cumsum([0, *LENGTHS[:-1]])
    paths = {2: "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
             3: "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"}  # fmt: skip
    features = {NAME: {"dtype": "video", "shape": [*SIZE, 3]}, "action": {"dtype": "float32", "shape": [2]}}
    (folder / "meta" / "episodes").mkdir(parents=True)
    info = {"codebase_version": f"v{version}.0", "fps": RATE, "features": features, "video_path": paths[version]}
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    parts = [moving(length, number) for number, length in enumerate(LENGTHS)]
    if version == 3:
        write_video(folder / "videos" / NAME / "chunk-000" / "file-000.mp4", np.concatenate(parts), gap)
        rows = [{"episode_index": number, "length": length, f"videos/{NAME}/chunk_index": 0,
                 f"videos/{NAME}/file_index": 0, f"videos/{NAME}/from_timestamp": float(start) / RATE}
                for number, (length, start) in enumerate(zip(LENGTHS, starts, strict=True))]  # fmt: skip
        parquet.write_table(arrow.Table.from_pylist(rows), folder / "meta" / "episodes" / "file-000.parquet")
    else:
        for number, frames in enumerate(parts):
            write_video(folder / "videos" / "chunk-000" / NAME / f"episode_{number:06d}.mp4", frames, gap)
    rng = np.random.default_rng(7)
    columns = {"episode_index": np.repeat(range(len(LENGTHS)), LENGTHS).tolist(),
               "timestamp": np.concatenate([np.arange(one) / RATE for one in LENGTHS]).astype(np.float32),
               "action": rng.normal(size=(sum(LENGTHS), 2)).astype(np.float32).tolist()}  # fmt: skip
    (folder / "data").mkdir()
    parquet.write_table(arrow.table(columns), folder / "data" / "file-000.parquet")
    return folder


def in_one_pass(folder):
    """All frames of a folder's files, by PyAV alone."""
    av = pytest.importorskip("av")
    frames = []
    for file in sorted((folder / "videos").rglob("*.mp4")):
        with av.open(str(file)) as content:
            frames += [frame.to_ndarray(format="rgb24") for frame in content.decode(video=0)]
    return np.stack(frames)


@pytest.mark.parametrize("gap", [1, 6, 60])
@pytest.mark.parametrize("version", [2, 3])
def test_frames_are_those_of_one_pass_in_any_order(version, gap, tmp_path, monkeypatch):
    folder = write(tmp_path / "data", version, gap)
    whole = in_one_pass(folder)
    monkeypatch.setattr(videos, "_KEPT", 5 * whole[0].nbytes)
    monkeypatch.setattr(videos, "_OPEN", 1)
    episodes = read_episodes(folder)
    assert [len(one) for one in episodes] == list(LENGTHS)
    starts, rng = np.cumsum([0, *LENGTHS]), np.random.default_rng(0)
    for _ in range(20):
        number = int(rng.integers(len(LENGTHS)))
        moments = rng.integers(0, LENGTHS[number], 4)
        seen = episodes[number].observations["images.top"][moments]
        assert (seen == whole[starts[number] + moments]).all()
    assert (np.concatenate([np.asarray(one.observations["images.top"]) for one in episodes]) == whole).all()
    assert (whole[5, 8:16, 10:18].astype(int) - whole[5, 20:28, 10:18]).mean() > 100  # the square is where it was


def sections(data, folder, **train):
    return {
        "data": {"path": str(data), "held_out": 0.3, "history": 2, "chunk": 2, "image_shift": 2},
        "policy": {"kind": "act", "width": 16, "ffn": 16, "heads": 2, "encoder_layers": 1, "seed": 0},
        "train": {"output_dir": str(folder), "max_steps": 6, "save_steps": 3, "per_device_train_batch_size": 4,
                  "use_cpu": True, "disable_tqdm": True, "report_to": "none", "lr_scheduler_type": "constant", **train},
    }  # fmt: skip


@pytest.mark.slow
def test_a_run_goes_on_bitwise_with_workers_or_without(tmp_path):
    data = write(tmp_path / "data", 3)
    runs = {}
    for name, workers in (("whole", 0), ("workers", 2), ("resumed", 2)):
        torch.manual_seed(len(runs))
        trainer = build(sections(data, tmp_path / name, dataloader_num_workers=workers))
        if name == "resumed":
            build(sections(data, tmp_path / name, max_steps=3, dataloader_num_workers=workers)).train()
        trainer.train(resume_from_checkpoint=name == "resumed" or None)
        runs[name] = trainer.model.state_dict()
    for name in ("workers", "resumed"):
        assert all(torch.equal(value, runs["whole"][key]) for key, value in runs[name].items()), name


def test_what_is_missing_is_told(tmp_path, monkeypatch):
    folder = write(tmp_path / "data", 3)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "av", None)
        with pytest.raises(DataError, match="is a video, which the package 'av' .* decodes: pip install av"):
            read_episodes(folder)
    episodes = read_episodes(folder)
    late = videos.frames_at(next((folder / "videos").rglob("*.mp4")), np.array([99.0]), RATE)
    with pytest.raises(DataError, match=r"has no frame 990 \(99.000 s\)"):
        late[np.array([0])]
    assert len(episodes) == 3
    next((folder / "videos").rglob("*.mp4")).unlink()
    with pytest.raises(DataError, match="The video '.*file-000.mp4' of episode 0 is not there"):
        read_episodes(Path(folder))
