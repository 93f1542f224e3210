"""Episodes of every layout, windows, normalisation: against arithmetic by hand."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch

from tests.tasks.imitation import point
from trainwright import ConfigError, DataError
from trainwright.tasks.imitation.episodes import Episode, read_episodes, split, write_npz
from trainwright.tasks.imitation.policies.normalize import Normalizer, sizes_of
from trainwright.tasks.imitation.windows import Together, Windows


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert np.allclose(a.actions, b.actions)
        assert a.observations.keys() == b.observations.keys()
        for name, values in a.observations.items():
            assert values.dtype == b.observations[name].dtype
            assert np.array_equal(values, b.observations[name])


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """What is cut off while it is written leaves the file before; what is cut off otherwise is told."""
    file = tmp_path / "all.npz"
    write_npz(file, point.episodes(2), {})
    whole = file.read_bytes()

    def cut_off(place, **arrays):
        getattr(place, "write", getattr(place, "write_bytes", None))(whole[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", cut_off)
    with pytest.raises(KeyboardInterrupt):
        write_npz(file, point.episodes(3), {})
    same(read_episodes(file), point.episodes(2))
    for length in (0, 100, len(whole) - 30):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"all\.npz' cannot be read: "):
            read_episodes(file)


def test_npz(tmp_path):
    made = point.episodes(4, camera=True)
    write_npz(tmp_path / "all.npz", made, {"env": "point"})
    same(read_episodes(tmp_path / "all.npz"), made)
    (tmp_path / "folder").mkdir()
    for number, one in enumerate(made):
        write_npz(tmp_path / "folder" / f"{number}.npz", [one], {})
    same(read_episodes(tmp_path / "folder"), made)
    assert len(read_episodes(tmp_path / "folder", count=2)) == 2


def test_robomimic(tmp_path):
    h5py = pytest.importorskip("h5py")
    made = point.episodes(12, camera=True)
    with h5py.File(tmp_path / "demos.hdf5", "w") as file:
        for number, one in enumerate(made):
            demo = file.create_group(f"data/demo_{number}")  # demo_10 comes after demo_9
            demo["actions"] = one.actions.astype(np.float64)
            for name, values in one.observations.items():
                demo[f"obs/{name}"] = values
    same(read_episodes(tmp_path / "demos.hdf5"), made)
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["x"] = [1]
    with pytest.raises(DataError, match="has no group 'data' as robomimic's files have"):
        read_episodes(tmp_path / "other.hdf5")


def lerobot(folder, made):
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    (folder / "data" / "chunk-000").mkdir(parents=True)
    (folder / "meta").mkdir()
    features = {"observation.camera": {"dtype": "image", "shape": [12, 12, 3]},
                "observation.state": {"dtype": "float32", "shape": [2]}}  # fmt: skip
    (folder / "meta" / "info.json").write_text(json.dumps({"features": features}))
    for file, part in enumerate((made[:2], made[2:])):
        columns = {"action": [], "episode_index": [], "observation.state": [], "observation.camera": []}
        for number, one in enumerate(part):
            columns["action"] += one.actions.tolist()
            columns["episode_index"] += [number + 2 * file] * len(one)
            columns["observation.state"] += one.observations["state"].tolist()
            columns["observation.camera"] += one.observations["camera"].reshape(len(one), -1).tolist()
        parquet.write_table(arrow.table(columns), folder / "data" / "chunk-000" / f"file-{file:03}.parquet")


def test_lerobot(tmp_path):
    pytest.importorskip("pyarrow")
    made = point.episodes(4, camera=True)
    lerobot(tmp_path / "good", made)
    same(read_episodes(tmp_path / "good"), made)


def test_image_files_in_lerobots_parquet(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    image = pytest.importorskip("PIL.Image")
    made = point.episodes(4, camera=True)
    lerobot(tmp_path, made)

    def png(pixels):
        file = io.BytesIO()
        image.fromarray(np.array(pixels, dtype=np.uint8).reshape(12, 12, 3)).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": "frame-000000.png"}

    for path in (tmp_path / "data").rglob("*.parquet"):
        columns = parquet.read_table(path).to_pydict()
        columns["observation.camera"] = [png(one) for one in columns["observation.camera"]]
        parquet.write_table(arrow.table(columns), path)
    same(read_episodes(tmp_path), made)
    columns["observation.camera"] = [{"bytes": None, "path": "a.png"}] * len(columns["action"])
    parquet.write_table(arrow.table(columns), path)
    with pytest.raises(DataError, match=r"kept as the file 'a.png' elsewhere; its bytes are expected"):
        read_episodes(tmp_path)


def test_data_that_are_none(tmp_path):
    with pytest.raises(DataError, match="There are no demonstrations at"):
        read_episodes(tmp_path / "none")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match=r"is neither .npz, .hdf5"):
        read_episodes(tmp_path / "a.txt")
    np.savez(tmp_path / "a.npz", action=np.zeros((3, 1)))
    with pytest.raises(DataError, match="needs the arrays 'action' and 'observation.<name>'"):
        read_episodes(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **{"action": np.zeros((3, 1)), "observation.state": np.zeros((2, 1))})
    with pytest.raises(DataError, match="Episode 0 .*2 observations 'state', but 3 actions"):
        read_episodes(tmp_path / "b.npz")


def test_episodes_are_split_whole_and_by_the_seed():
    made = [Episode({"state": np.full((5, 1), i, np.float32)}, np.zeros((5, 1), np.float32)) for i in range(10)]
    train, held = split(made, 0.2, seed=3)
    assert (len(train), len(held)) == (8, 2)
    names = [{float(one.observations["state"][0, 0]) for one in part} for part in (train, held)]
    assert not names[0] & names[1]
    assert [one.observations["state"][0, 0] for one in split(made, 0.2, seed=3)[1]] == sorted(names[1])
    assert [one.observations["state"][0, 0] for one in split(made, 0.2, seed=4)[1]] != sorted(names[1])
    assert [len(part) for part in split(made, 0, seed=3)] == [10, 0]
    with pytest.raises(DataError, match="Holding out 1 of 1 episodes leaves none"):
        split(made[:1], 0.1, seed=0)


def test_windows():
    made = [Episode({"state": np.arange(n, dtype=np.float32)[:, None]}, np.arange(n, dtype=np.float32)[:, None] + 10)
            for n in (4, 2)]  # fmt: skip
    windows = Windows(made, history=2, chunk=3)
    assert len(windows) == 6
    rows = [
        (
            row["observation"]["state"].flatten().tolist(),
            row["action"].flatten().tolist(),
            row["action_is_pad"].tolist(),
        )
        for row in (windows[i] for i in range(6))
    ]
    assert rows[0] == ([0, 0], [10, 11, 12], [False, False, False])
    assert rows[3] == ([2, 3], [13, 13, 13], [False, True, True])
    assert rows[4] == ([0, 0], [10, 11, 11], [False, False, True])  # the second episode knows nothing of the first
    batch = Together()([windows[0], windows[4]])
    assert batch["action"].shape == (2, 3, 1)


def test_images_are_moved_together_and_numbers_are_not():
    rows = [Windows(point.episodes(1, camera=True), history=2)[1] for _ in range(6)]
    for row in rows:
        row["observation"]["camera"] = row["observation"]["camera"][:1].expand(2, -1, -1, -1)  # nothing has moved
    torch.manual_seed(0)
    batch = Together(shift=2)(rows)
    assert torch.equal(batch["observation"]["state"][0], rows[0]["observation"]["state"])
    images = batch["observation"]["camera"]
    assert images.dtype == torch.uint8
    assert images.shape == (6, 2, 12, 12, 3)
    assert torch.equal(images[:, 0], images[:, 1])
    assert len({tuple(one.flatten().tolist()) for one in images}) > 1
    still = rows[0]["observation"]["camera"][0]
    wide = torch.nn.functional.pad(still.permute(2, 0, 1)[None].float(), [2] * 4, mode="replicate")[0].byte()
    crops = [wide[:, y : y + 12, x : x + 12].permute(1, 2, 0) for y in range(5) for x in range(5)]
    assert all(any(torch.equal(one[0], crop) for crop in crops) for one in images)


KINDS = {
    "mean_std": lambda v: (v - v.mean(0)) / v.std(0),
    "min_max": lambda v: 2 * (v - v.min(0)) / (v.max(0) - v.min(0)) - 1,
    "percentile": lambda v: 2 * (v - np.percentile(v, 1, 0)) / (np.percentile(v, 99, 0) - np.percentile(v, 1, 0)) - 1,
    "identity": lambda v: v,
}


@pytest.mark.parametrize("kind", KINDS)
def test_normalisation(kind):
    made = point.episodes(6)
    normalizer = Normalizer(sizes_of(made))
    normalizer.fit(made, {"default": kind}, {"action": [True, False]})
    states = np.concatenate([one.observations["state"] for one in made]).astype(np.float64)
    found = normalizer("state", torch.from_numpy(states))
    assert np.allclose(found, KINDS[kind](states), atol=1e-5)  # shift and scale are float32
    assert torch.allclose(normalizer.inverse("state", found), torch.from_numpy(states), atol=1e-5)
    actions = torch.from_numpy(made[0].actions)
    assert torch.equal(normalizer("action", actions)[:, 1], actions[:, 1])  # masked
    other = Normalizer(sizes_of(made))
    other.load_state_dict(normalizer.state_dict())
    assert torch.equal(other("action", actions), normalizer("action", actions))


def test_normalisation_that_cannot_be():
    made = point.episodes(2)
    with pytest.raises(ConfigError, match="normalization 'minmax' is not known. Did you mean 'min_max'?"):
        Normalizer(sizes_of(made)).fit(made, {"default": "minmax"})
    with pytest.raises(ConfigError, match="normalization_masks.action has 3 values; 'action' has 2"):
        Normalizer(sizes_of(made)).fit(made, {}, {"action": [True] * 3})
    still = [Episode({"state": np.ones((5, 1), np.float32)}, np.ones((5, 1), np.float32))]
    normalizer = Normalizer(sizes_of(still))
    normalizer.fit(still, {})
    assert normalizer("state", torch.ones(1)).tolist() == [0.0]  # what does not change is not stretched


@pytest.mark.parametrize("ends", [[10], [10, 10], [20, 10], [0, 20], []])
def test_ends_of_episodes_that_leave_rows_out_are_refused(tmp_path, ends):
    arrays = {"action": np.zeros((20, 1)), "observation.state": np.zeros((20, 2)), "episode_ends": np.array(ends, int)}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match="episode_ends is .*, and there are 20 actions"):
        list(read_episodes(tmp_path / "a.npz"))
