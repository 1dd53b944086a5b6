"""Which scenes of a data root make up a split: NAVSIM's own split and scene-filter YAML files."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from irlvla.errors import DataError

SynthPair = tuple[str, str]
TwoStageGroup = tuple[str, str, tuple[SynthPair, ...]]


@dataclass(frozen=True)
class SceneFilter:
    """NAVSIM's `SceneFilter`, field by field."""

    num_history_frames: int = 4
    """Frames up to and including the current one."""
    num_future_frames: int = 10
    """Frames after the current one; scoring needs eight, planning none."""
    frame_interval: int | None = None
    """Stride between windows in frames; None makes windows that do not overlap."""
    has_route: bool = True
    """Leave out scenes whose current frame has no route."""
    max_scenes: int | None = None
    log_names: frozenset[str] | None = None
    tokens: frozenset[str] | None = None
    include_synthetic_scenes: bool = False
    synthetic_scene_tokens: frozenset[str] | None = None
    """Follow-up scenes to take; None takes those that belong to a scene of the set."""
    reactive_synthetic_initial_tokens: frozenset[str] | None = None
    """Follow-up scenes scored in stage two with reactive traffic."""
    non_reactive_synthetic_initial_tokens: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if self.num_history_frames != 4:
            raise DataError(f"num_history_frames is {self.num_history_frames}; NAVSIM's scorer needs 4")
        if self.num_future_frames < 0:
            raise DataError(f"num_future_frames is {self.num_future_frames}, it cannot be negative")
        if self.frame_interval is not None and self.frame_interval < 1:
            raise DataError(f"frame_interval is {self.frame_interval}, it must be at least 1")

    @property
    def num_frames(self) -> int:
        """Length of a scene's window."""
        return self.num_history_frames + self.num_future_frames

    @property
    def stride(self) -> int:
        return self.num_frames if self.frame_interval is None else self.frame_interval


@dataclass(frozen=True)
class Split:
    """A named set of scenes of a data root."""

    name: str
    data_split: str
    """Folder under `navsim_logs` and `sensor_blobs`."""
    scene_filter: SceneFilter
    mapping: tuple[TwoStageGroup, ...] = ()
    """Two-stage groups: (scene now, scene 0.5 s earlier, pairs of their follow-up scenes)."""


def data_root(root: Path | None = None) -> Path:
    """The data root: the one given, else OPENSCENE_DATA_ROOT as NAVSIM uses it.

    Raises:
        DataError: None is given and the variable is not set, or the folder is not there.
    """
    if root is None:
        from_environment = os.environ.get("OPENSCENE_DATA_ROOT")
        if not from_environment:
            raise DataError("no data root: give one, or set OPENSCENE_DATA_ROOT")
        root = Path(from_environment)
    if not root.is_dir():
        raise DataError(f"data root {root} is not there; build one with `irlvla world build`, or download OpenScene")
    return root


def load_split(root: Path, name: str | Path) -> Split:
    """Find a split of a data root.

    Args:
        root: Data root.
        name: A split named in `ROOT/train_test_split`, a split YAML file anywhere, or a folder of `ROOT/navsim_logs`,
            which then is taken whole, one scene a frame.
    Raises:
        DataError: There is no such split, or its YAML is damaged or asks for something unknown.
    """
    is_file = isinstance(name, Path) or name.endswith((".yaml", ".yml"))
    path = Path(name) if is_file else root / "train_test_split" / f"{name}.yaml"
    if path.is_file():
        return _read_split(path)
    if is_file:
        raise DataError(f"{path}: no such split file")
    if (root / "navsim_logs" / str(name)).is_dir():
        return Split(str(name), str(name), SceneFilter(frame_interval=1))
    named = sorted(file.stem for file in (root / "train_test_split").glob("*.yaml"))
    folders = sorted(folder.name for folder in (root / "navsim_logs").glob("*") if folder.is_dir())
    known = ", ".join(dict.fromkeys(named + folders)) or "none"
    raise DataError(f"{root}: no split {name!r}; known splits: {known}")


def with_future_frames(split: Split, num_future_frames: int | None) -> Split:
    """The same split with windows of another length; None leaves it as it is."""
    if num_future_frames is None:
        return split
    return replace(split, scene_filter=replace(split.scene_filter, num_future_frames=num_future_frames))


def _read_split(path: Path) -> Split:
    content = _read_yaml(path)
    if "data_split" not in content:
        raise DataError(f"{path}: names no 'data_split'; is this a scene filter? Give the split file that refers to it")
    filters = [
        entry["scene_filter"]
        for entry in content.get("defaults") or ()
        if isinstance(entry, Mapping) and "scene_filter" in entry
    ]
    if len(filters) != 1:
        raise DataError(f"{path}: 'defaults' names {len(filters)} scene filters, expected one")
    beside = [
        path.parent / "scene_filter" / f"{filters[0]}.yaml",
        path.parent / f"{filters[0]}.yaml",
        path.parent / "scene_filter.yaml",
    ]
    filter_path = next((file for file in beside if file != path and file.is_file()), None)
    if filter_path is None:
        raise DataError(f"{path}: scene filter {filters[0]!r} is not beside it; expected {beside[0]}")
    return Split(path.stem, str(content["data_split"]), _read_filter(filter_path), _mapping(content, path))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        # The C loader reads navtrain's 100,000 tokens in a tenth of the time.
        content = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected keys and values")
    return content


def _read_filter(path: Path) -> SceneFilter:
    content = _read_yaml(path)
    values: dict[str, Any] = {}
    known = {field.name for field in fields(SceneFilter)}
    for key, value in content.items():
        if key.startswith("_") or key == "all_mapping":
            continue
        if key not in known:
            raise DataError(f"{path}: unknown scene filter field {key!r}, known are {', '.join(sorted(known))}")
        if key in ("has_route", "include_synthetic_scenes"):
            valid = isinstance(value, bool)
        elif key in ("num_history_frames", "num_future_frames"):
            valid = isinstance(value, int)
        elif key in ("frame_interval", "max_scenes"):
            valid = value is None or isinstance(value, int)
        else:
            valid = value is None or isinstance(value, list)
            value = None if value is None or not valid else frozenset(str(item) for item in value)
        if not valid:
            raise DataError(f"{path}: {key!r} cannot be {content[key]!r}")
        values[key] = value
    return SceneFilter(**values)


def _mapping(content: Mapping[str, Any], path: Path) -> tuple[TwoStageGroup, ...]:
    groups = []
    for group in content.get("reactive_all_mapping") or ():
        try:
            now, earlier, pairs = group
            groups.append((str(now), str(earlier), tuple((str(a), str(b)) for a, b in pairs)))
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: 'reactive_all_mapping' holds a malformed group {group!r}") from error
    return tuple(groups)
