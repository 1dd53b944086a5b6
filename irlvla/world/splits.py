"""Split and scene-filter YAML files, laid out as NAVSIM ships its own."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from irlvla.files import write_text
from irlvla.world.filter import choose_scenes
from irlvla.world.presets import DATA_SPLITS, WorldPreset, WorldSplit


def write_splits(
    root: Path,
    preset: WorldPreset,
    seed: int,
    workers: int,
    log_names: Mapping[WorldSplit, Sequence[str]],
    *,
    on_progress: Callable[[int, int, str], None] = lambda done, total, split: None,
) -> None:
    """Write `train_test_split/world-….yaml` for every split, with its scene filter.

    Args:
        log_names: Logs of each split.
        on_progress: Called with (windows scored, windows in all, split name).
    """
    for split, logs in log_names.items():
        name = f"world-{split}"

        def report(done: int, total: int, split: str = name) -> None:
            on_progress(done, total, split)

        data_split = DATA_SPLITS[split]
        tokens = choose_scenes(root, data_split, preset, seed, workers, log_names=logs, on_progress=report)
        _write_yaml(
            root / "train_test_split" / f"{name}.yaml", {"data_split": data_split, "defaults": [{"scene_filter": name}]}
        )
        _write_yaml(
            root / "train_test_split" / "scene_filter" / f"{name}.yaml",
            {
                "_target_": "navsim.common.dataclasses.SceneFilter",
                "_convert_": "all",
                "num_history_frames": 4,
                "num_future_frames": 10,
                "frame_interval": 1,
                "has_route": True,
                "max_scenes": None,
                "log_names": sorted(logs),
                "tokens": tokens,
            },
        )


def _write_yaml(file: Path, content: dict[str, Any]) -> None:
    write_text(file, yaml.safe_dump(content, sort_keys=True))
