"""What the reward world model can and cannot do, measured on plans and scenes it never saw."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from irlvla.model.reward import BINARY, PREDICTED, THREE_CLASS, RewardWorldModel
from irlvla.stages.proposals import PLAN_KINDS
from irlvla.stages.scene_tokens import EncodedScenes
from irlvla.stages.scored_plans import ScoredPlans
from irlvla.stages.watch import within_scene_rank_correlation
from irlvla.types import Array


@torch.no_grad()
def report_on(
    model: RewardWorldModel,
    encoded: EncodedScenes,
    scored: ScoredPlans,
    held_out_kinds: Sequence[int],
    device: torch.device,
) -> dict[str, Any]:
    """What the model gets right on some scenes: overall, on kinds never trained on, and on the policy's own plans.

    Returns:
        Per group of kinds: rank correlation and best-of-N regret among the plans of one start, how well the heads'
        disagreement tells where the error is large (rank correlation of the two over all plans), and per sub-score
        AUC and Brier score; history comfort is exact in use, its head's figures are reported all the same. Under
        "by_kind" the rank correlation among plans of each kind. Empty where there is no scene.
    """
    if not len(scored.rows):
        return {}
    means: dict[str, list[Array]] = {name: [] for name in PREDICTED}
    scores, spreads = [], []
    for entry in range(0, len(scored.rows), 8):
        part = slice(entry, entry + 8)
        tokens = encoded.rows(scored.rows[part], device)
        poses = torch.from_numpy(scored.poses[part]).to(device)
        comfort = torch.from_numpy(scored.label("history_comfort")[part].astype(np.float32)).to(device)
        start = torch.from_numpy(scored.plan_starts[part]).to(device)
        exact = model.predict(poses, tokens, history_comfort=comfort, start=start)
        guessed = model.predict(poses, tokens, start=start)
        scores.append(exact.epdms.mean(0).double().cpu().numpy())
        spreads.append(exact.epdms.std(0).double().cpu().numpy())
        for name in PREDICTED:
            means[name].append(guessed.mean[name].double().cpu().numpy())
    predicted = {name: np.concatenate(parts) for name, parts in means.items()}
    score, spread, true = np.concatenate(scores), np.concatenate(spreads), scored.true_epdms()
    policy_kinds = [PLAN_KINDS.index("policy")]
    groups = {
        "all_kinds": list(range(len(PLAN_KINDS))),
        "kinds_never_trained_on": list(held_out_kinds),
        "policy_plans": policy_kinds,
    }
    report: dict[str, Any] = {"scenes": len(scored.rows)}
    for group, kinds in groups.items():
        members = np.isin(scored.kinds, kinds) & scored.valid
        if not members.any():
            continue
        alternatives = list(alternatives_in(scored, members))
        regrets = [true[plans].max() - true[plans][score[plans].argmax()] for plans in alternatives]
        error = np.abs(score - true)[members]
        report[group] = {
            "plans": int(members.sum()),
            "rank_correlation": _rank_correlation(score, true, alternatives),
            "best_of_n_regret": float(np.mean(regrets)),
            "mean_error": float((score - true)[members].mean()),
            "mean_absolute_error": float(error.mean()),
            "ensemble_deviation": float(spread[members].mean()),
            "deviation_to_error_rank_correlation": _finite(within_scene_rank_correlation([spread[members]], [error])),
            "sub_scores": {
                name: _sub_score_figures(name, predicted[name][members], scored.label(name)[members].astype(np.float64))
                for name in PREDICTED
            },
        }
    report["by_kind"] = {}
    for number, name in enumerate(PLAN_KINDS):
        members = (scored.kinds == number) & scored.valid
        if members.any():
            report["by_kind"][name] = {
                "plans": int(members.sum()),
                "true_mean": float(true[members].mean()),
                "mean_absolute_error": float(np.abs(score - true)[members].mean()),
                "ensemble_deviation": float(spread[members].mean()),
                "rank_correlation": _rank_correlation(score, true, list(alternatives_in(scored, members))),
            }
    return report


Plans = tuple[int, NDArray[np.int64]]
"""Entry and columns of plans that begin at one start, hence alternatives to each other."""


def alternatives_in(scored: ScoredPlans, members: NDArray[np.bool_]) -> Iterator[Plans]:
    """The plans marked by `members` [S, G], start by start."""
    for entry in range(len(scored.rows)):
        columns = np.flatnonzero(members[entry])
        if len(columns):
            _, start = np.unique(scored.plan_starts[entry, columns], axis=0, return_inverse=True)
            for number in range(start.max() + 1):
                yield entry, columns[start.ravel() == number]


def _rank_correlation(score: Array, true: Array, alternatives: Sequence[Plans]) -> float | None:
    return _finite(
        within_scene_rank_correlation([score[plans] for plans in alternatives], [true[plans] for plans in alternatives])
    )


def _sub_score_figures(name: str, predicted: Array, true: Array) -> dict[str, float | None]:
    figures: dict[str, float | None] = {
        "true_mean": float(true.mean()),
        "predicted_mean": float(predicted.mean()),
        "mean_squared_error": float(((predicted - true) ** 2).mean()),
    }
    if name in BINARY or name in THREE_CLASS:
        # A half counts as failed: the plan is at fault, only less so.
        figures["area_under_curve"] = _finite(area_under_curve(predicted, true > 0.75))
        figures["brier"] = figures["mean_squared_error"]
    return figures


def area_under_curve(predicted: Array, positive: NDArray[np.bool_]) -> float:
    """Chance that a random positive is ranked above a random negative; NaN where one of them is missing.

    Example:
        >>> area_under_curve(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
        0.875
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(predicted)
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
