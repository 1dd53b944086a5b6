"""The editions of the benchmark, NAVSIM v1 and v2: the one place that says in what their scoring differs.

Route, centerline, road, the tracking of plans and PDM-Closed's proposals are the same in both.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from irlvla.scoring.pdms import score_rollouts_pdms
from irlvla.scoring.rollout_scores import score_rollouts
from irlvla.simulation.drivable import Road
from irlvla.simulation.observation import STEPS_PER_FRAME
from irlvla.simulation.traffic import RedLights, Traffic
from irlvla.types import Array, PDMSubScores, SubScores


class Judged(Protocol):
    """Rollouts [C] of one scene, each judged by itself."""

    @property
    def progress_m(self) -> Array: ...
    @property
    def gate(self) -> Array: ...
    def score(self, reference_m: float, reference_gate: float) -> Array:
        """Scores [C], progress compared with a reference's progress (m) and gate."""
        ...


@dataclass(frozen=True)
class Edition:
    """What one edition of the benchmark decides."""

    name: str
    """The devkit's version."""
    future_frames: int
    """Keyframes (2 Hz) after now that traffic is made of. Where they reach beyond the rollout's four seconds, time to
    collision is watched up to the rollout's end."""
    clears_start: bool
    """Whether replayed traffic lacks the objects that touch the ego vehicle at t=0."""
    is_extended: bool
    """Whether there are a human filter, extended comfort, reactive traffic and follow-up scenes."""
    sub_scores: tuple[str, ...]
    """Names, in the order of the official result file."""
    judge: Callable[[Road, Traffic, RedLights, Array], Judged]
    """What is thought of rollouts [C, 41, 11] whose history nobody asks for: PDM-Closed chooses its proposal by it."""

    @property
    def traffic_steps(self) -> int:
        """Steps of 0.1 s that traffic is known for, now included."""
        return self.future_frames * STEPS_PER_FRAME + 1


def _judge_v1(road: Road, traffic: Traffic, lights: RedLights, rollouts: Array) -> Judged:
    return score_rollouts_pdms(road, traffic, rollouts)


def _judge_v2(road: Road, traffic: Traffic, lights: RedLights, rollouts: Array) -> Judged:
    return score_rollouts(road, traffic, lights, rollouts, None)


NAVSIM_V1 = Edition(
    "navsim-1.1",
    future_frames=10,
    clears_start=False,
    is_extended=False,
    sub_scores=PDMSubScores.names(),
    judge=_judge_v1,
)
NAVSIM_V2 = Edition(
    "navsim-2.2",
    future_frames=8,
    clears_start=True,
    is_extended=True,
    sub_scores=SubScores.names(),
    judge=_judge_v2,
)

METRICS: Mapping[str, Edition] = {"epdms-2.2": NAVSIM_V2, "epdms-2.2-prefix": NAVSIM_V2, "pdms-1.1": NAVSIM_V1}
"""`epdms-2.2` is the devkit's v2.2 with the repaired human filter. Before the repair the filter changed the printed
sub-scores but not the score made of them; `epdms-2.2-prefix` reproduces that, for tables printed at that time.
`pdms-1.1` is the score of the devkit's v1.1."""
