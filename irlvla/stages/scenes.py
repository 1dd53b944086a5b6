"""Which scenes a stage trains on, in what order, and as which tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from irlvla.data.language import DrivingAnswer, load_answers
from irlvla.data.maps import load_map
from irlvla.data.scenes import SceneSet, open_scenes
from irlvla.data.splits import load_split
from irlvla.errors import DataError
from irlvla.model.config import ModelConfig
from irlvla.model.inputs import SceneInputs, SceneTargets, derive_answer
from irlvla.stages.run import scene_batch
from irlvla.types import INSTRUCTION, Scene


@dataclass(frozen=True)
class DataConfig:
    """Scenes a stage learns from."""

    root: Path
    """Data root in NAVSIM's layout."""
    split: str = "world-train"
    """Split name (a YAML below ROOT/train_test_split, or a folder of navsim_logs)."""
    max_scenes: int | None = None
    """At most this many scenes, whole logs in an order fixed by `draw`; None takes all."""
    held_out_share: float = 0.1
    """Share of the logs that is never trained on, for the figures a run reports about itself."""
    draw: int = 0
    """Fixes which logs are taken and which held out. Not the run's seed, so that seeds differ on the same scenes and
    all stages hold out the same logs."""


def open_training_scenes(data: DataConfig) -> SceneSet:
    """Scenes of a split, cut to `max_scenes` by whole logs, so that neighbouring frames stay together.

    Raises:
        DataError: the split is missing or has no usable scene.
    """
    scenes = open_scenes(data.root, data.split)
    if len(scenes) == 0:
        raise DataError(f"split {data.split!r} of {data.root} has no scene: is the scene filter too narrow?")
    if data.max_scenes is None or data.max_scenes >= len(scenes):
        return scenes
    by_log: dict[str, list[str]] = {}
    for token in scenes.tokens:
        by_log.setdefault(scenes.log_name(token), []).append(token)
    names = sorted(by_log)
    drawn = [names[i] for i in np.random.default_rng([data.draw, len(names)]).permutation(len(names))]
    tokens = [token for name in drawn for token in by_log[name]][: data.max_scenes]
    return scenes.subset(tokens)


def split_by_log(logs: Sequence[str], held_out_share: float, draw: int) -> tuple[list[int], list[int]]:
    """Row numbers for training and for the run's own report, split by log so that no place is on both sides.

    Args:
        logs: Log of each scene.
        held_out_share: Share of the logs to hold out, in [0, 1); at least one log is held out where it is positive
            and there are two logs or more. A single log is split in time instead: its last scenes are held out.
        draw: Fixes which.
    Returns:
        (training rows, held-out rows), each ascending.
    Example:
        >>> split_by_log(["a", "a", "a", "a"], 0.25, draw=0)
        ([0, 1, 2], [3])
    """
    names = sorted(set(logs))
    if held_out_share <= 0:
        return list(range(len(logs))), []
    if len(names) == 1:
        cut = len(logs) - max(1, round(held_out_share * len(logs)))
        return list(range(cut)), list(range(cut, len(logs)))
    order = np.random.default_rng([draw, len(names), 1]).permutation(len(names))
    held_out = {names[i] for i in order[: max(1, round(held_out_share * len(names)))]}
    return (
        [row for row, log in enumerate(logs) if log not in held_out],
        [row for row, log in enumerate(logs) if log in held_out],
    )


def scene_logs(scenes: SceneSet) -> list[str]:
    """Log of each scene, without reading the scenes."""
    return [scenes.log_name(token) for token in scenes.tokens]


def load_all_answers(root: Path, split: str, scenes: SceneSet) -> dict[str, DrivingAnswer]:
    """Written answers of all logs of the scenes, by token; empty for plain NAVSIM data."""
    data_split = load_split(root, split).data_split
    answers: dict[str, DrivingAnswer] = {}
    for log_name in sorted(set(scene_logs(scenes))):
        answers.update(load_answers(root, data_split, log_name))
    return answers


class SceneBatches(Dataset[tuple[SceneInputs, SceneTargets]]):
    """Batches of model inputs and imitation targets, indexed by a list of scene rows.

    Decoding a scene costs far more than copying it, so decoded scenes are kept in memory while there is room.

    Args:
        data: Where the scenes lie.
        scenes: Scenes to index.
        model: Fixes image size and LiDAR grid.
        keep_decoded: Scenes kept decoded; about 0.4 MB each at the `tiny` size.
    """

    def __init__(self, data: DataConfig, scenes: SceneSet, model: ModelConfig, keep_decoded: int) -> None:
        # Random access would read the same logs over and over; scenes of one log share their frames in memory.
        self.scenes: Sequence[Scene] = list(scenes) if len(scenes) <= keep_decoded else scenes
        self.model = model
        self.answers = load_all_answers(data.root, data.split, scenes)
        self.maps = {name: load_map(data.root, name) for name in sorted({scene.map_location for scene in self.scenes})}
        self._room = keep_decoded
        self._decoded: dict[int, tuple[SceneInputs, SceneTargets]] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def texts(self, rows: Sequence[int]) -> list[str]:
        """All questions and answers of the given scenes: the corpus of a tokenizer trained from scratch."""
        answers = [self._answer(self.scenes[row]) for row in rows]
        return [INSTRUCTION, *(text for answer in answers for text in (answer.question, answer.answer))]

    def __getitem__(self, rows: list[int]) -> tuple[SceneInputs, SceneTargets]:
        inputs, targets = zip(*(self._decode(row) for row in rows), strict=True)
        return SceneInputs.cat(inputs), SceneTargets.cat(targets)

    def _answer(self, scene: Scene) -> DrivingAnswer:
        return self.answers.get(scene.token) or derive_answer(scene)

    def _decode(self, row: int) -> tuple[SceneInputs, SceneTargets]:
        if row in self._decoded:
            return self._decoded[row]
        scene = self.scenes[row]
        scene = replace(scene, instruction=self._answer(scene).question)
        decoded = (
            SceneInputs.from_observations([scene.observation()], self.model),
            SceneTargets.from_scenes([scene], self.maps, self.model, self.answers),
        )
        if len(self._decoded) < self._room:
            self._decoded[row] = decoded
        return decoded


def batch_loader(
    batches: SceneBatches, rows: Sequence[int], steps: range, batch_size: int, seed: int, workers: int, share: slice
) -> DataLoader[tuple[SceneInputs, SceneTargets]]:
    """Batches of the given steps, in order, decoded ahead of use by worker processes.

    Args:
        batches: Source of batches.
        rows: Scenes to draw from.
        steps: Steps to be trained, for instance `range(resumed_at, total)`.
        batch_size: Scenes a step, over all processes.
        seed: Seed of the run.
        workers: Decoding processes; 0 decodes in this one.
        share: This process's part of each batch.
    """
    order = [[rows[i] for i in scene_batch(seed, step, batch_size, len(rows))][share] for step in steps]
    return DataLoader(
        batches,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        collate_fn=_as_it_is,
    )


def _as_it_is(batch: Any) -> Any:
    return batch
