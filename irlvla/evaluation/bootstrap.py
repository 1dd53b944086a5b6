"""How sure is a mean, and how sure a difference: the paired, clustered bootstrap.

Keyframes of one log look alike, so they are no independent evidence: whole logs are drawn again. Where a policy was
trained several times, its training runs (seeds) are drawn again too, above the logs.

Shape letters: K runs of one policy (seeds), S scenes, L logs, B resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """An estimate with its percentile interval."""

    estimate: float
    low: float | None
    """None where there is a single log: one cluster says nothing about spread."""
    high: float | None
    level: float
    logs: int
    """How many logs were resampled; below about ten the interval is too narrow."""
    runs: int
    """How many training runs were resampled."""

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def mean_interval(
    values: Array,
    log_names: Sequence[str],
    *,
    valid: NDArray[np.bool_] | None = None,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean over scenes, with an interval from redrawn logs (and runs).

    Args:
        values: [S] or [K, S], one row a training run.
        log_names: [S] the log of each scene; the cluster that is redrawn as a whole.
        valid: Shape of `values`; False where the value does not apply (extended comfort of a log's first frame).
        resamples: B, bootstrap samples.
        level: Coverage of the interval.
        seed: Seed of the redraws.
    Raises:
        ValueError: shapes disagree, or no value is valid.
    """
    sums_KL, counts_KL = _log_sums(values, valid, log_names)
    runs, logs = sums_KL.shape
    rng = np.random.default_rng(seed)
    means_B = _resampled_means(sums_KL, counts_KL, _draws(rng, resamples, runs), _draws(rng, resamples, logs))
    return _interval(sums_KL.sum() / counts_KL.sum(), means_B, level, logs, runs)


def ratio_interval(
    numerators: Array, denominators: Array, *, resamples: int = RESAMPLES, level: float = 0.95, seed: int = 0
) -> Interval:
    """Sum of numerators over sum of denominators (events a kilometre), with an interval from redrawn units.

    Args:
        numerators: [L] one value a unit (a drive).
        denominators: [L] positive in sum.
        resamples: B, bootstrap samples.
        level: Coverage of the interval.
        seed: Seed of the redraws.
    Raises:
        ValueError: shapes disagree, or the denominators sum to nothing.
    """
    above_1L, below_1L = (np.atleast_2d(np.asarray(part, dtype=np.float64)) for part in (numerators, denominators))
    if above_1L.shape != below_1L.shape or below_1L.sum() <= 0:
        raise ValueError(f"no ratio of sums over shapes {above_1L.shape} and {below_1L.shape}")
    draws_BL = _draws(np.random.default_rng(seed), resamples, below_1L.shape[1])
    # A resample may hold nothing but units without denominator, which says nothing.
    draws_BL = draws_BL[draws_BL @ below_1L[0] > 0]
    ratios_B = _resampled_means(above_1L, below_1L, np.ones((len(draws_BL), 1)), draws_BL)
    return _interval(above_1L.sum() / below_1L.sum(), ratios_B, level, below_1L.shape[1], 1)


def difference_interval(
    values: Array,
    baseline: Array,
    log_names: Sequence[str],
    *,
    valid: NDArray[np.bool_] | None = None,
    paired_runs: bool = False,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean of `values` minus mean of `baseline` on the same scenes, with an interval from redrawn logs (and runs).

    Both sides see the same redrawn logs, so what makes a log hard cancels out.

    Args:
        values: [S] or [K, S].
        baseline: [S] or [K', S], the same scenes in the same order.
        log_names: [S] the log of each scene.
        valid: [S], True where both sides have a value; all scenes if left out.
        paired_runs: Run k of `values` grew out of run k of `baseline` (PPO from its own imitation run), so both are
            redrawn together; needs K = K'.
        resamples: B, bootstrap samples.
        level: Coverage of the interval.
        seed: Seed of the redraws.
    Raises:
        ValueError: shapes disagree, or no scene is valid.
    Source: Davison and Hinkley, "Bootstrap Methods and their Application", §3.8 (hierarchical resampling).

    Example:
        >>> one_log_of_two_gains = difference_interval(
        ...     np.array([0.9, 0.5]), np.array([0.7, 0.5]), ["a", "b"], resamples=100)
        >>> round(one_log_of_two_gains.estimate, 3)
        0.1
    """
    ours_KS, theirs_KS = np.atleast_2d(values), np.atleast_2d(baseline)
    if paired_runs and ours_KS.shape != theirs_KS.shape:
        raise ValueError(f"paired runs need equal shapes, got {ours_KS.shape} and {theirs_KS.shape}")
    ours_KL, counts_KL = _log_sums(ours_KS, valid, log_names)
    theirs_KL, their_counts_KL = _log_sums(theirs_KS, valid, log_names)
    runs, logs = ours_KL.shape
    rng = np.random.default_rng(seed)
    log_draws_BL = _draws(rng, resamples, logs)
    run_draws_BK = _draws(rng, resamples, runs)
    their_run_draws_BK = run_draws_BK if paired_runs else _draws(rng, resamples, len(theirs_KL))
    differences_B = _resampled_means(ours_KL, counts_KL, run_draws_BK, log_draws_BL) - _resampled_means(
        theirs_KL, their_counts_KL, their_run_draws_BK, log_draws_BL
    )
    estimate = ours_KL.sum() / counts_KL.sum() - theirs_KL.sum() / their_counts_KL.sum()
    return _interval(estimate, differences_B, level, logs, runs)


def _log_sums(values: Array, valid: NDArray[np.bool_] | None, log_names: Sequence[str]) -> tuple[Array, Array]:
    """Sum of the valid values and their number, [K, L] each; logs without a valid value are left out."""
    values_KS = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if values_KS.shape[1] != len(log_names):
        raise ValueError(f"{values_KS.shape[1]} values a run but {len(log_names)} log names")
    valid_KS = np.broadcast_to(True if valid is None else valid, values_KS.shape)
    if not valid_KS.any():
        raise ValueError("no valid value to average")
    _, log_S = np.unique(np.asarray(log_names), return_inverse=True)
    member_SL = np.eye(log_S.max() + 1)[log_S]
    counts_KL = valid_KS @ member_SL
    sums_KL = np.where(valid_KS, values_KS, 0.0) @ member_SL
    kept = counts_KL.any(axis=0)
    return sums_KL[:, kept], counts_KL[:, kept]


def _draws(rng: np.random.Generator, resamples: int, size: int) -> Array:
    """How often each of `size` units is drawn in each resample, [B, size]."""
    return rng.multinomial(size, np.full(size, 1 / size), size=resamples).astype(np.float64)


def _resampled_means(sums_KL: Array, counts_KL: Array, run_draws_BK: Array, log_draws_BL: Array) -> Array:
    total_B = np.einsum("bk,kl,bl->b", run_draws_BK, sums_KL, log_draws_BL, optimize=True)
    count_B = np.einsum("bk,kl,bl->b", run_draws_BK, counts_KL, log_draws_BL, optimize=True)
    return total_B / count_B


def _interval(estimate: float, resampled_B: Array, level: float, logs: int, runs: int) -> Interval:
    if logs < 2:
        return Interval(float(estimate), None, None, level, logs, runs)
    low, high = np.quantile(resampled_B, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(estimate), float(low), float(high), level, logs, runs)
