"""The index of logs: the same scenes with it and without, however often it was interrupted."""

from pathlib import Path

import pytest

from irlvla.data import log_index
from irlvla.data.pickles import load_pickle, write_pickle
from irlvla.data.scenes import open_scenes

INDEX = "log_index.jsonl"


def test_second_start_reads_no_log(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_scenes(golden / "alpha", "test", num_future_frames=8, workers=2, cache=tmp_path)
    assert first.tokens == open_scenes(golden / "alpha", "test", num_future_frames=8).tokens
    size = (tmp_path / INDEX).stat().st_size
    monkeypatch.setattr(log_index, "scan_log", None)
    assert open_scenes(golden / "alpha", "test", num_future_frames=8, cache=tmp_path).tokens == first.tokens
    assert (tmp_path / INDEX).stat().st_size == size


def test_torn_index_is_completed(golden: Path, tmp_path: Path) -> None:
    expected = open_scenes(golden / "alpha", "test", num_future_frames=8, cache=tmp_path).tokens
    content = (tmp_path / INDEX).read_bytes()
    (tmp_path / INDEX).write_bytes(content[: len(content) // 2])
    for _ in range(2):
        assert open_scenes(golden / "alpha", "test", num_future_frames=8, cache=tmp_path).tokens == expected


def test_rewritten_log_is_read_again(golden: Path, tmp_path: Path) -> None:
    source = sorted((golden / "alpha" / "navsim_logs" / "test").glob("*.pkl"))[0]
    records = load_pickle(source)
    folder = tmp_path / "navsim_logs" / "test"
    folder.mkdir(parents=True)
    write_pickle(folder / "drive.pkl", records)
    before = open_scenes(tmp_path, "test", cache=tmp_path / "cache")
    write_pickle(folder / "drive.pkl", records[2:])
    after = open_scenes(tmp_path, "test", cache=tmp_path / "cache")
    assert after.tokens == before.tokens[2:]
