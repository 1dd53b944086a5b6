"""Split and scene-filter YAML files, laid out as NAVSIM ships its own."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from irlvla.data.splits import TwoStageGroup, load_split
from irlvla.files import write_text
from irlvla.types import PLAN_POSES
from irlvla.world.filter import choose_scenes
from irlvla.world.presets import DATA_SPLITS, WorldPreset, WorldSplit

HARD_SPLIT = "world-hard"


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
        _write_split(root, name, {"data_split": data_split})
        _write_filter(root, name, {"num_future_frames": 10, "log_names": sorted(logs), "tokens": tokens})


def scenes_worth_planning(root: Path, split: WorldSplit) -> frozenset[str]:
    """Tokens that `write_splits` has listed for a split."""
    return load_split(root, f"world-{split}").scene_filter.tokens or frozenset()


def write_two_stage_split(root: Path, data_split: str, groups: Sequence[TwoStageGroup], logs: Sequence[str]) -> None:
    """Write `train_test_split/world-hard.yaml` with its mapping, and its scene filter.

    Args:
        data_split: Folder of the first stage's logs.
        groups: First-stage scenes and what follows them.
        logs: Names of their logs.
    """
    mapping = [[now, earlier, [list(pair) for pair in pairs]] for now, earlier, pairs in groups]
    _write_split(root, HARD_SPLIT, {"data_split": data_split, "reactive_all_mapping": mapping})
    _write_filter(
        root,
        HARD_SPLIT,
        {
            # Follow-up scenes belong to the last frame of a window, which must be the one where a plan ends.
            "num_future_frames": PLAN_POSES,
            "log_names": list(logs),
            "tokens": [token for now, earlier, _ in groups for token in (now, earlier)],
            "include_synthetic_scenes": True,
            "reactive_synthetic_initial_tokens": [token for *_, pairs in groups for pair in pairs for token in pair],
        },
    )


def two_stage_folder(root: Path) -> Path:
    """Folder of the follow-up scenes of `world-hard` and their images."""
    return root / f"{HARD_SPLIT}_two_stage"


def _write_split(root: Path, name: str, content: dict[str, Any]) -> None:
    _write_yaml(root / "train_test_split" / f"{name}.yaml", {"defaults": [{"scene_filter": name}], **content})


def _write_filter(root: Path, name: str, content: dict[str, Any]) -> None:
    _write_yaml(
        root / "train_test_split" / "scene_filter" / f"{name}.yaml",
        {
            "_target_": "navsim.common.dataclasses.SceneFilter",
            "_convert_": "all",
            "num_history_frames": 4,
            "frame_interval": 1,
            "has_route": True,
            "max_scenes": None,
            **content,
        },
    )


class _Dumper(yaml.SafeDumper):
    """Quotes all that holds a digit: the reader behind NAVSIM takes a token like 12345678e0123456 for a number."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if any(map(str.isdigit, text)) else None)


_Dumper.add_representer(str, _represent_text)


def _write_yaml(file: Path, content: dict[str, Any]) -> None:
    write_text(file, yaml.dump(content, Dumper=_Dumper, sort_keys=True))
