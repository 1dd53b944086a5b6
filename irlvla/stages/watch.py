"""Reward-hacking watch: does what the reward world model praises still score well in truth?

On a fixed sample of scenes the policy's plans are judged twice, by the reward world model and by the true scorer, every
few updates. An alarm is raised where the two part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from irlvla.types import Array

_ONE_SIDED_95 = 1.645


@dataclass(frozen=True)
class WatchConfig:
    """When the watch raises an alarm."""

    every: int = 10
    """PPO updates between checks; 0 switches the watch off."""
    scenes: int = 48
    """Scenes of the fixed sample; they are held-out logs where the run has such."""
    plans: int = 8
    """Sampled plans a scene, for the rank correlation."""
    margin: float = 0.03
    """How far true EPDMS may fall below its value at the start while the predicted reward stands above its own; and it
    must have fallen surely, see `sure_fall`."""
    least_rank_correlation: float = 0.2
    """Mean within-scene rank correlation below which the reward no longer tells good plans from bad ones."""
    patience: int = 2
    """Alarms in a row that stop the run."""


def within_scene_rank_correlation(predicted_SG: Array | Sequence[Array], true_SG: Array | Sequence[Array]) -> float:
    """Mean Spearman correlation over the plans of each scene.

    Scenes whose plans all score the same in truth say nothing and are left out.

    Args:
        predicted_SG: [S, G] predicted scores, or one array a scene.
        true_SG: True scores likewise.
    Returns:
        Mean over scenes in [-1, 1]; NaN where no scene says anything. Ties share their mean rank.
    Example:
        >>> within_scene_rank_correlation(np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]),
        ...                               np.array([[0.0, 0.5, 1.0], [1.0, 1.0, 1.0]]))
        1.0
    """
    correlations = []
    for predicted, true in zip(predicted_SG, true_SG, strict=True):
        if np.ptp(true) < 1e-9:
            continue
        if np.ptp(predicted) < 1e-12:
            correlations.append(0.0)
            continue
        correlations.append(float(np.corrcoef(rankdata(predicted), rankdata(true))[0, 1]))
    return round(float(np.mean(correlations)), 12) if correlations else float("nan")


def sure_fall(before_S: Array, after_S: Array) -> float:
    """How far a mean score has fallen at least, with 95 % confidence: the same scenes are compared one by one.

    Args:
        before_S: [S] scores.
        after_S: [S] scores of the same scenes.
    Returns:
        Lower bound of the fall; not above 0 where it may be chance.
    Example:
        >>> sure_fall(np.array([1.0, 1.0, 0.0, 1.0]), np.array([1.0, 0.0, 1.0, 1.0])) > 0
        False
    """
    fall_S = before_S - after_S
    return float(fall_S.mean() - _ONE_SIDED_95 * fall_S.std(ddof=1) / np.sqrt(len(fall_S))) if len(fall_S) > 1 else 0.0


def hacking_alarm(checks: Sequence[Mapping[str, float]], config: WatchConfig) -> str | None:
    """Why the latest check is alarming, or None.

    Args:
        checks: All checks so far, oldest first, with "predicted_reward", "true_epdms", "sure_fall" since the first
            and, where it is known, "rank_correlation".
        config: Thresholds.
    """
    first, latest = checks[0], checks[-1]
    if (
        latest["true_epdms"] < first["true_epdms"] - config.margin
        and latest["sure_fall"] > 0
        and latest["predicted_reward"] > first["predicted_reward"]
    ):
        return (
            f"the reward model's score rose from {first['predicted_reward']:.3f} to {latest['predicted_reward']:.3f} "
            f"while true EPDMS fell from {first['true_epdms']:.3f} to {latest['true_epdms']:.3f}"
        )
    # A sample without any spread in truth has no rank correlation, and raises no alarm.
    if latest.get("rank_correlation", 1.0) < config.least_rank_correlation:
        return (
            f"within a scene the reward model ranks plans with correlation {latest['rank_correlation']:.2f} to the "
            f"true score, below {config.least_rank_correlation:.2f}"
        )
    return None
