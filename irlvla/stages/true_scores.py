"""True verdicts on plans, many scenes at a time: what the reward world model learns from and PPO is checked against.

Scoring runs in processes of its own, which import neither torch nor a model.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from irlvla.data.maps import CityMap, load_map
from irlvla.data.reposed import StartOffset, repose
from irlvla.errors import SceneDataError
from irlvla.processes import process_pool
from irlvla.scoring.comfort import extended_comfort, history_comfort
from irlvla.scoring.context import ScoringContext, build_context
from irlvla.scoring.score import score_simulated, simulate_plans
from irlvla.simulation.reference import reference_poses
from irlvla.simulation.tracker import simulate
from irlvla.types import Array, Rollout, Scene, SceneFailure, SubScores

LONGEST_HISTORY = 16
"""Room for the states before now; the official sampling gives 14 or 15."""


@dataclass(frozen=True)
class EgoStart:
    """How the ego vehicle comes into a scene: enough to simulate a plan and to judge its comfort exactly."""

    now_us: int
    state: Array
    """[11] rear-axle state now, world frame."""
    history: Array
    """[H, 11] states of the 1.5 s before, 0.1 s apart."""

    @classmethod
    def of(cls, context: ScoringContext) -> "EgoStart":
        return cls(context.now_us, context.ego_state, context.history_states)

    def simulate(self, poses: Array) -> Array:
        """States [G, 41, 11] that plans [G, 8, 3] lead to."""
        return simulate(reference_poses(poses, self.state[:3], self.now_us), self.state)

    def history_comfort(self, rollouts: Array) -> Array:
        """[G] exact history comfort of simulated states [G, 41, 11]."""
        return history_comfort(self.history, rollouts)

    def to_arrays(self) -> tuple[NDArray[np.int64], Array]:
        """(time and history length [2], states [1 + LONGEST_HISTORY, 11]) for a cache."""
        states = np.zeros((1 + LONGEST_HISTORY, 11))
        states[0] = self.state
        states[1 : 1 + len(self.history)] = self.history
        return np.array([self.now_us, len(self.history)], dtype=np.int64), states

    @classmethod
    def from_arrays(cls, numbers: NDArray[np.int64], states: Array) -> "EgoStart":
        """Inverse of `to_arrays`."""
        return cls(int(numbers[0]), states[0], states[1 : 1 + int(numbers[1])])


def plans_comfort(starts: Sequence[EgoStart], poses: Array) -> tuple[Array, Array]:
    """Exact history comfort of plans, without scene or map.

    Args:
        starts: S scenes.
        poses: [S, G, 8, 3].
    Returns:
        history comfort [S, G] and simulated states [S, G, 41, 11].
    """
    rollouts = np.stack([start.simulate(plans) for start, plans in zip(starts, poses, strict=True)])
    comfort = np.stack([start.history_comfort(states) for start, states in zip(starts, rollouts, strict=True)])
    return comfort, rollouts


def two_frame_comfort(
    starts: Sequence[EgoStart], rollouts: Array, earlier: Sequence[EgoStart], earlier_poses: Array
) -> Array:
    """Exact extended comfort of simulated plans against one plan each of the frame before.

    Args:
        starts: S scenes.
        rollouts: [S, G, 41, 11] states of their plans.
        earlier: S scenes one frame earlier.
        earlier_poses: [S, 8, 3] the plan made there.
    Returns:
        [S, G].
    """
    comfort = np.empty(rollouts.shape[:2])
    for row, (start, before) in enumerate(zip(starts, earlier, strict=True)):
        states = before.simulate(earlier_poses[row][None])[0]
        comfort[row] = extended_comfort(rollouts[row], states, (start.now_us - before.now_us) * 1e-6)
    return comfort


@dataclass(frozen=True)
class ReposedPlans:
    """Plans from a start that is not the logged one."""

    offset: StartOffset
    letter: str
    """Tells the starts of one scene apart."""
    poses: Array
    """[G, 8, 3] in the frame of the start."""


@dataclass(frozen=True)
class Verdicts:
    """True scores of some scenes' plans."""

    rows: list[int]
    """Scenes that could be scored, by the caller's numbers."""
    sub_scores: SubScores
    """[scene, plan], human-filtered, extended comfort left out."""
    starts: list[EgoStart]
    failures: list[SceneFailure]
    reposed: list[list[SubScores | None]]
    """[scene][re-posed start] sub-scores [plan]; None where nothing can be scored from that start."""


@lru_cache(maxsize=4)
def _city(root: Path, location: str) -> CityMap:
    return load_map(root, location)


def build_contexts_of(root: Path, scenes: Iterable[Scene]) -> tuple[dict[str, ScoringContext], list[SceneFailure]]:
    """Scoring contexts by token, and the scenes that cannot be scored."""
    contexts, failures = {}, []
    for scene in scenes:
        try:
            contexts[scene.token] = build_context(scene, _city(root, scene.map_location))
        except SceneDataError as error:
            failures.append(SceneFailure(scene.token, error.reason))
    return contexts, failures


def judge(
    root: Path,
    rows: Sequence[int],
    scenes: Sequence[Scene],
    poses: NDArray[np.floating],
    reposed: Sequence[Sequence[ReposedPlans]] = (),
) -> Verdicts:
    """Score plans truly, in this process.

    Args:
        root: Data root.
        rows: Caller's number of each scene.
        scenes: As many scenes.
        poses: [scene, plan, 8, 3].
        reposed: Of each scene, plans from other starts.
    """
    contexts, failures = build_contexts_of(root, scenes)
    kept = [i for i, scene in enumerate(scenes) if scene.token in contexts]
    known = [contexts[scenes[i].token] for i in kept]
    rollout: Rollout = simulate_plans(known, np.asarray(poses[kept], dtype=np.float64))
    scores = score_simulated(known, rollout, human_filter=True)
    elsewhere = [
        [_judge_start(root, scenes[i], context, plans) for plans in reposed[i]] if reposed else []
        for i, context in zip(kept, known, strict=True)
    ]
    return Verdicts([rows[i] for i in kept], scores, [EgoStart.of(context) for context in known], failures, elsewhere)


def _judge_start(root: Path, scene: Scene, logged: ScoringContext, plans: ReposedPlans) -> SubScores | None:
    start = repose(scene, plans.offset, plans.letter)
    try:
        context = build_context(start, _city(root, start.map_location))
    except SceneDataError:
        return None
    # What the human failed from the logged start is not judged there (annotation or map is at fault), so not here.
    context = replace(context, human_scores=logged.human_scores)
    scores = score_simulated([context], simulate_plans([context], plans.poses[None]), human_filter=True)
    return SubScores(**{name: values[0] for name, values in vars(scores).items()})


class JudgePool:
    """Processes that score plans while this one goes on.

    Args:
        root: Data root.
        workers: Processes; 0 scores here, at once.
    """

    def __init__(self, root: Path, workers: int) -> None:
        self.root = root
        self._pool = process_pool(workers) if workers else None

    def submit(
        self,
        rows: Sequence[int],
        scenes: Sequence[Scene],
        poses: NDArray[np.floating],
        reposed: Sequence[Sequence[ReposedPlans]] = (),
    ) -> "Future[Verdicts]":
        """Verdicts to come; arguments as `judge`."""
        if self._pool is not None:
            return self._pool.submit(judge, self.root, rows, scenes, poses, reposed)
        done: Future[Verdicts] = Future()
        done.set_result(judge(self.root, rows, scenes, poses, reposed))
        return done

    def __enter__(self) -> "JudgePool":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


class TrueScorer:
    """Scores plans of chosen scenes again and again; contexts are built when first needed and kept.

    Args:
        root: Data root.
        scenes: Scenes by row.
    """

    def __init__(self, root: Path, scenes: Sequence[Scene]) -> None:
        self.root = root
        self.scenes = scenes
        self._contexts: dict[int, ScoringContext] = {}

    def context(self, row: int) -> ScoringContext:
        """Raises SceneDataError where the scene cannot be scored."""
        if row not in self._contexts:
            scene = self.scenes[row]
            self._contexts[row] = build_context(scene, _city(self.root, scene.map_location))
        return self._contexts[row]

    def scorable(self, rows: Iterable[int]) -> Iterator[int]:
        """Those rows that can be scored."""
        for row in rows:
            try:
                self.context(row)
            except SceneDataError:
                continue
            yield row

    def score(self, rows: Sequence[int], poses: Array, earlier_rows: Sequence[int], earlier_poses: Array) -> SubScores:
        """Sub-scores, extended comfort included.

        Args:
            rows: S scenes.
            poses: [S, G, 8, 3].
            earlier_rows: [S] scene one frame earlier, -1 for none.
            earlier_poses: [S, 8, 3] plan made there; ignored where there is none.
        Returns:
            [S, G].
        """
        contexts = [self.context(row) for row in rows]
        rollout = simulate_plans(contexts, poses)
        scores = score_simulated(contexts, rollout, human_filter=True)
        paired = np.flatnonzero(np.asarray(earlier_rows) >= 0)
        comfort = np.zeros(poses.shape[:2])
        if len(paired):
            comfort[paired] = two_frame_comfort(
                [EgoStart.of(contexts[int(i)]) for i in paired],
                rollout.states_world[paired],
                [EgoStart.of(self.context(earlier_rows[int(i)])) for i in paired],
                earlier_poses[paired],
            )
        has_earlier = np.broadcast_to((np.asarray(earlier_rows) >= 0)[:, None], comfort.shape)
        return replace(scores, two_frame_extended_comfort=comfort, has_earlier_frame=has_earlier)
