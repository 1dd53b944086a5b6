"""Who drives: baselines, files of plans, and the trained driver.

torch is imported by the learned ones alone, when they are made: evaluating plans needs none.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from irlvla.data.maps import CityMap
from irlvla.data.plans import PlanTable, load_plans
from irlvla.data.scenes import constant_velocity_plan, human_plan
from irlvla.errors import DataError, RunError, SceneDataError
from irlvla.geometry import world_to_ego
from irlvla.scoring.context import ScoringContext, pdm_closed_plan
from irlvla.types import Array, Scene

if TYPE_CHECKING:
    from torch import Tensor

    from irlvla.model.driving_vla import DrivingVLA
    from irlvla.model.inputs import SceneInputs

_LEAST_SHARED_WORK = 20_000_000
BATCH_SCENES = 32


class ConstantVelocity:
    """Straight ahead at the speed of this moment."""

    name = "constant velocity"

    def plan(self, scenes: Sequence[Scene]) -> Array:
        return np.stack([constant_velocity_plan(scene) for scene in scenes])


class Human:
    """What the human drove, read from the log."""

    name = "human"

    def plan(self, scenes: Sequence[Scene]) -> Array:
        return np.stack([human_plan(scene) for scene in scenes])


class PdmClosed:
    """NAVSIM's privileged rule-based planner, as every scoring context holds it; plans at 10 Hz.

    Args:
        contexts: Scoring context by token.
    """

    def __init__(self, contexts: Mapping[str, ScoringContext]) -> None:
        self.name = "PDM-Closed"
        self._contexts = contexts

    def plan(self, scenes: Sequence[Scene]) -> Array:
        plans = []
        for scene in scenes:
            context = self._contexts.get(scene.token)
            if context is None:
                raise SceneDataError(scene.token, "has no scoring context, which PDM-Closed's plan is part of")
            plans.append(world_to_ego(context.pdm_reference[1:], context.ego_state[:3]))
        return np.stack(plans)


class PdmClosedPlanner:
    """PDM-Closed planning from what there is now, for scenes whose future nobody knows yet; plans at 10 Hz.

    Args:
        city_map: The city of all its scenes.
    """

    name = "PDM-Closed"

    def __init__(self, city_map: CityMap) -> None:
        self._map = city_map

    def plan(self, scenes: Sequence[Scene]) -> Array:
        references = [pdm_closed_plan(scene, self._map)[1:] for scene in scenes]
        poses = [scene.now.ego_pose_world for scene in scenes]
        return np.stack([world_to_ego(world, pose) for world, pose in zip(references, poses, strict=True)])


class PlansFile:
    """Plans made elsewhere: a `plans.npz` or an official submission.

    Args:
        path: The file.
        name: Take the plans of this name; may be left out where the file holds one name only.
    Raises:
        DataError: the file cannot be read, holds several names and none was chosen, or two plans for one scene.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        table = load_plans(path)
        names = sorted(set(table.names))
        if name is None and len(names) != 1:
            raise DataError(
                f"{path} holds plans of {len(names)} names ({', '.join(names[:5])} …): choose one by its name"
            )
        self.name = names[0] if name is None else name
        if self.name not in names:
            raise DataError(f"{path} holds no plan named {self.name!r}; it has {', '.join(names[:10])}")
        self.path = path
        self._rows = _rows_by_token(path, table, self.name)
        self._table = table

    def plan(self, scenes: Sequence[Scene]) -> Array:
        return np.stack([self._table.poses[self._row(scene.token)] for scene in scenes])

    def _row(self, token: str) -> int:
        row = self._rows.get(token)
        if row is None:
            raise SceneDataError(token, f"{self.path} holds no plan of {self.name!r} for it")
        if not self._table.valid[row]:
            raise SceneDataError(token, f"its plan in {self.path} has poses that are not finite numbers")
        return row


def plans_files(path: Path) -> list[PlansFile]:
    """One policy for each name in a file of plans."""
    return [PlansFile(path, name) for name in dict.fromkeys(load_plans(path).names)]


class LearnedPolicy:
    """A trained driver; its plan is the deterministic end of the denoising chain.

    Args:
        run: Run folder of the imitation or PPO stage, or a folder of weights as `save_pretrained` writes it.
        name: The stage's name if left out.
        device: Where to compute; a GPU if there is one.
    Raises:
        RunError: there is no finished run.
    """

    def __init__(self, run: Path, *, name: str | None = None, device: str | None = None) -> None:
        weights, stage, self.seed = _finished_run(run)
        import torch

        from irlvla.model.driving_vla import DrivingVLA

        self.name = name or stage
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.vla: DrivingVLA = DrivingVLA.from_pretrained(weights).to(self.device).eval()
        self._parameters = sum(tensor.numel() for tensor in self.vla.parameters())
        with (weights / "model.safetensors").open("rb") as file:
            self.weights_digest = hashlib.file_digest(file, "blake2b").hexdigest()[:32]

    def plan(self, scenes: Sequence[Scene]) -> Array:
        return self.plans(scenes, candidates=1)[:, 0]

    def plans(self, scenes: Sequence[Scene], candidates: int, *, seed: int = 0) -> Array:
        """Several plans a scene [S, candidates, 8, 3]; the first is the deterministic one, the others are drawn."""
        import torch

        parts = []
        with torch.inference_mode(), _threads_that_help(self._parameters * len(scenes)):
            for inputs in _inputs(self.vla, scenes, self.device):
                tokens = self.vla.encode(inputs)
                plans = self.vla.planner.plan(tokens)[:, None]
                if candidates > 1:
                    generator = torch.Generator().manual_seed(seed)
                    drawn = self.vla.planner.sample_chain(tokens, candidates - 1, generator=generator).poses
                    plans = torch.cat([plans, drawn], dim=1)
                parts.append(plans.double().cpu().numpy())
        return np.concatenate(parts)

    def answer(self, scenes: Sequence[Scene]) -> list[str]:
        """What the driver says to each scene's instruction."""
        import torch

        with torch.no_grad():
            return [said for inputs in _inputs(self.vla, scenes, self.device) for said in self.vla.answer(inputs)]


class LearnedReward:
    """The reward world model of a run, reading scenes through the driver's encoders.

    Args:
        run: Run folder of the reward stage.
        driver: The driver whose encoders it was trained on; PPO leaves these as they are.
        pessimism_beta: Standard deviations over the ensemble taken off the mean.
    Raises:
        RunError: there is no finished run.
    """

    def __init__(self, run: Path, driver: LearnedPolicy, *, pessimism_beta: float = 0.0) -> None:
        weights, _, self.seed = _finished_run(run)
        from irlvla.model.reward import RewardWorldModel

        self.driver = driver
        self.pessimism_beta = pessimism_beta
        self.model: RewardWorldModel = RewardWorldModel.from_pretrained(weights).to(driver.device).eval()

    def predict(
        self,
        scenes: Sequence[Scene],
        plans: Array,
        history_comfort: Array | None = None,
        extended_comfort: Array | None = None,
        has_earlier_frame: NDArray[np.bool_] | None = None,
    ) -> Array:
        """Expected EPDMS [S, C] of plans.

        Args:
            scenes: S scenes.
            plans: [S, C, 8, 3] in each scene's ego frame.
            history_comfort: [S, C] exact values, which need no scene to be known; the model guesses without.
            extended_comfort: [S, C] exact values.
            has_earlier_frame: [S] where extended comfort counts; nowhere if left out.
        """
        import torch

        def on_device(values: Array) -> "Tensor":
            return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float32).to(self.driver.device)

        parts, first = [], 0
        with torch.no_grad():
            for inputs in _inputs(self.driver.vla, scenes, self.driver.device):
                here = slice(first, first + len(inputs))
                first += len(inputs)
                tokens, poses = self.driver.vla.encode(inputs), on_device(plans[here])
                comfort = None if history_comfort is None else on_device(history_comfort[here])
                reward = self.model.reward(poses, tokens, self.pessimism_beta, comfort)
                if extended_comfort is not None and has_earlier_frame is not None and has_earlier_frame[here].any():
                    rows = torch.as_tensor(np.flatnonzero(has_earlier_frame[here]))
                    reward[rows] = self.model.reward(
                        poses[rows],
                        tokens.index_select(rows),
                        self.pessimism_beta,
                        None if comfort is None else comfort[rows],
                        on_device(extended_comfort[here])[rows],
                    )
                parts.append(reward.double().cpu().numpy())
        return np.concatenate(parts)


class BestOfN:
    """A driver that makes several plans and takes the one the reward world model likes best.

    Args:
        policy: Makes the plans.
        reward: Judges them; a pessimistic one is less easily fooled.
        candidates: How many plans, the deterministic one among them.
    """

    def __init__(self, policy: LearnedPolicy, reward: LearnedReward, candidates: int = 16) -> None:
        self.policy = policy
        self.reward = reward
        self.candidates = candidates
        self.name = f"{policy.name}, best of {candidates}"
        self.seed = policy.seed

    def plan(self, scenes: Sequence[Scene]) -> Array:
        plans = self.policy.plans(scenes, self.candidates)
        best = self.reward.predict(scenes, plans).argmax(axis=1)
        return plans[np.arange(len(scenes)), best]


@contextmanager
def _threads_that_help(work: int) -> Iterator[None]:
    """One thread for a small piece of work (parameters times scenes): sharing it takes longer than doing it."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1 if work < _LEAST_SHARED_WORK else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _inputs(vla: "DrivingVLA", scenes: Sequence[Scene], device: str) -> "Iterator[SceneInputs]":
    """Decoded observations in batches. Only here does a scene reach a learned policy, and without its future."""
    from irlvla.model.inputs import SceneInputs

    for first in range(0, len(scenes), BATCH_SCENES):
        batch = scenes[first : first + BATCH_SCENES]
        images = tuple(camera.image_path for scene in batch for camera in scene.now.cameras.values())
        key = (vla.config, images, tuple((scene.token, scene.instruction) for scene in batch))
        if key not in _decoded:
            # Several drivers plan for the same scenes in turn; decoding their images costs more than planning.
            _decoded.clear()
            _decoded[key] = SceneInputs.from_observations([scene.observation() for scene in batch], vla.config)
        yield _decoded[key].to(device)


_decoded: "dict[object, SceneInputs]" = {}


def _rows_by_token(path: Path, table: PlanTable, name: str) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row, (token, owner) in enumerate(zip(table.tokens, table.names, strict=True)):
        if owner != name:
            continue
        if token in rows:
            raise DataError(f"{path} holds two plans of {name!r} for scene {token}: keep one")
        rows[token] = row
    return rows


def _finished_run(run: Path) -> tuple[Path, str, int | None]:
    """Folder of the final weights, stage and seed of a run folder, or of a bare folder of weights."""
    if (run / "model.safetensors").is_file():
        return run, run.name, None
    if not (run / "config.json").is_file():
        raise RunError(f"{run} is not a run folder: train first, or give the folder that `irlvla train` wrote")
    if not (run / "model").is_dir():
        raise RunError(f"{run} is not finished (it has no model/): run the same `irlvla train` command again to go on")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    return run / "model", str(config.get("stage", run.name)), config.get("seed")
