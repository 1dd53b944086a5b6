"""What the reward world model can and cannot do, measured on plans and scenes it never saw."""

from collections.abc import Sequence
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
        Per group of kinds: rank correlation, best-of-N regret, and per sub-score AUC and Brier score; history comfort
        is exact in use, its head's figures are reported all the same. Empty where there is no scene.
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
        exact, guessed = model.predict(poses, tokens, history_comfort=comfort), model.predict(poses, tokens)
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
        members = np.isin(scored.kinds, kinds)
        columns = members[0]  # Every scene has the same kinds in the same places.
        if not columns.any():
            continue
        chosen = score[:, columns].argmax(axis=1)
        truth = true[:, columns]
        report[group] = {
            "plans": int(members.sum()),
            "rank_correlation": _finite(within_scene_rank_correlation(score[:, columns], truth)),
            "best_of_n_regret": float((truth.max(axis=1) - np.take_along_axis(truth, chosen[:, None], 1)[:, 0]).mean()),
            "mean_error": float((score[:, columns] - truth).mean()),
            "mean_absolute_error": float(np.abs(score[:, columns] - truth).mean()),
            "ensemble_deviation": float(spread[:, columns].mean()),
            "sub_scores": {
                name: _sub_score_figures(name, predicted[name][members], scored.label(name)[members].astype(np.float64))
                for name in PREDICTED
            },
        }
    return report


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
