"""Which keyframes become scenes of a split."""

from pathlib import Path

from irlvla.data.scenes import open_scenes
from irlvla.data.splits import SceneFilter, Split
from irlvla.world.presets import WorldPreset


def choose_scenes(root: Path, data_split: str, preset: WorldPreset, seed: int, workers: int) -> list[str]:
    """Tokens of the scenes of a data split, in the order of logs and frames."""
    scenes = open_scenes(root, Split(data_split, data_split, SceneFilter(frame_interval=1)))
    return list(scenes.tokens)
