"""Stage (b): inverse environment learning. The reward world model learns what the simulator would say of a plan.

First every scene is encoded by the imitation policy. Then plans of many kinds are made for every scene and scored
truly. Then the reward world model learns each sub-score from scene tokens and plan, and is measured on logs and on
kinds of plans it never saw. A maximum-entropy term can be added: the human's plan should be the likeliest under a
Boltzmann policy on the learned reward, which needs no label.

Legend: S scenes, G plans of one scene, E heads of the ensemble.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irlvla.model.driving_vla import DrivingVLA
from irlvla.model.reward import PREDICTED, RewardWorldModel
from irlvla.stages.optimisation import (
    WeightAverage,
    adamw,
    load_optimizer,
    optimizer_tensors,
    set_learning_rate,
    warm_up_cosine,
)
from irlvla.stages.proposals import PLAN_KINDS, PlanKind
from irlvla.stages.reward_report import report_on
from irlvla.stages.run import (
    OnProgress,
    Progress,
    RunFolder,
    cache_key,
    load_run_config,
    model_digest,
    no_progress,
    scene_batch,
    seed_step,
    write_json,
)
from irlvla.stages.scene_tokens import EncodedScenes, encode_scenes
from irlvla.stages.scenes import DataConfig, open_training_scenes, scene_logs, split_by_log
from irlvla.stages.scored_plans import CollectConfig, ScoredPlans, collect_scored_plans

REPOSED = PLAN_KINDS.index("reposed")


@dataclass(frozen=True)
class RewardConfig:
    """How stage (b) collects plans and trains. Values are our own choice: the paper names none."""

    collect: CollectConfig = field(default_factory=CollectConfig)
    """Plans to make and score."""
    held_out_kinds: tuple[PlanKind, ...] = ("offset",)
    """Kinds that are scored but never trained on, for the report."""

    steps: int = 1200
    """Optimizer steps."""
    scenes_per_step: int = 24
    """S, scenes a step."""
    plans_per_scene: int = 16
    """G, plans drawn of each scene, evenly over its kinds and over good and bad ones."""
    reposed_share: float = 0.25
    """Share of these that begin at a re-posed start, where the scene has one."""
    unseen_log_share: float = 1 / 3
    """Share of the training logs that each head of the ensemble never learns from, so that heads differ where data are
    thin."""
    dropout: float = 0.0
    """Dropout in the reward world model. On held-out logs of the embedded world 0.1 gained nothing."""
    learning_rate: float = 1e-3
    """Peak of the schedule."""
    weight_decay: float = 1e-2
    """AdamW; vectors are not decayed."""
    warm_up_steps: int = 50
    """Steps of linear warm-up; a half cosine follows."""
    gradient_norm: float = 1.0
    """Gradients are clipped to this norm."""
    average_decay: float = 0.995
    """Decay of the averaged weights, which are the ones saved."""
    max_entropy_weight: float = 0.0
    """Weight of the maximum-entropy inverse-RL loss; 0 leaves it out."""
    max_entropy_temperature: float = 0.1
    """Temperature of its Boltzmann policy, in EPDMS."""
    log_every: int = 10
    """Steps between lines in metrics.jsonl."""
    checkpoint_every: int = 200
    """Steps between resume states."""
    trackers: tuple[str, ...] = ()
    """Accelerate's trackers to log to besides metrics.jsonl, for instance "tensorboard" or "wandb"."""


def train_reward(
    imitation_run: Path,
    config: RewardConfig,
    data: DataConfig,
    out: Path,
    *,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
) -> Path:
    """Train the reward world model; goes on where an interrupted run of the same settings stopped.

    Args:
        imitation_run: Finished run of stage (a).
        config: What to collect and how to train.
        data: Scenes to learn from.
        out: Run folder; report.json holds what the model can and cannot do.
        seed: Fixes plans, initial weights and data order.
        on_progress: Told after every shard and step.
    Returns:
        Folder of the final weights, `RewardWorldModel.from_pretrained` reads it.
    Raises:
        RunError: `imitation_run` is not a finished run, `out` holds another run, or the disk is full.
        DataError: the data root or one of its files is missing or damaged, or no scene can be scored.
    """
    load_run_config(imitation_run, "imitation")
    policy = model_digest(imitation_run)
    run = RunFolder(out, "reward", {"reward": config, "data": data, "imitation_model": policy}, seed)
    if run.finished:
        return run.model_path
    run.start_trackers(config.trackers)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vla = DrivingVLA.from_pretrained(imitation_run / "model").to(device)
    scenes = open_training_scenes(data)
    training_rows, held_out_rows = split_by_log(scene_logs(scenes), data.held_out_share, data.draw)

    encoded = encode_scenes(
        vla,
        scenes,
        out / "scene_tokens" / cache_key(policy, scenes.tokens),
        device=device,
        on_shard=lambda done, total: on_progress(Progress("reward: encode scenes", done, total)),
    )
    scored = collect_scored_plans(vla, encoded, scenes, config.collect, out / "scored_plans", seed, on_progress)

    held_out_kinds = [PLAN_KINDS.index(kind) for kind in config.held_out_kinds]
    training = scored.only(training_rows)
    seed_step(seed, 0, "weights")
    model = RewardWorldModel(replace(vla.config, dropout=config.dropout)).to(device).train()
    optimizer = adamw(model, config.learning_rate, config.weight_decay)
    average = WeightAverage(model, config.average_decay)
    start = 0
    checkpoint = run.load_checkpoint()
    if checkpoint is not None:
        start = checkpoint.step
        model.load_state_dict(checkpoint.part("model"))
        load_optimizer(optimizer, checkpoint.part("optimizer"))
        average.load(checkpoint.part("average"), updates=start)

    weights = draw_weights(training, held_out_kinds, config.reposed_share)
    heads_see = heads_see_scenes(scene_logs(scenes), vla.config.reward_heads, seed, config.unseen_log_share).to(device)
    for step in range(start, config.steps):
        seed_step(seed, step, "reward")
        set_learning_rate(optimizer, config.learning_rate * warm_up_cosine(step, config.steps, config.warm_up_steps))
        entries = np.array(scene_batch(seed, step, config.scenes_per_step, len(training.rows)))
        losses = reward_losses(model, encoded, training, entries, weights, heads_see, config, device)
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_norm)
        optimizer.step()
        average.update(model)

        done = step + 1
        if done % config.log_every == 0 or done == config.steps:
            metrics = {"loss": float(loss.detach()), "gradient_norm": float(norm)}
            metrics |= {f"loss/{name}": float(value.detach()) for name, value in losses.items()}
            run.log(done, metrics)
            on_progress(Progress("reward: train", done, config.steps, metrics))
        if done % config.checkpoint_every == 0 and done < config.steps:
            run.save_checkpoint(
                done,
                {"model": model.state_dict(), "optimizer": optimizer_tensors(optimizer), "average": average.average},
            )

    with average.applied_to(model):
        model.eval()
        report = {
            "held_out_logs": report_on(model, encoded, scored.only(held_out_rows), held_out_kinds, device),
            "training_logs": report_on(model, encoded, training, held_out_kinds, device),
        }
        write_json(out / "report.json", report)
        run.finish(model.save_pretrained, config.steps, scenes=len(training.rows), plans=int(training.valid.sum()))
    return run.model_path


def draw_weights(scored: ScoredPlans, held_out_kinds: Sequence[int], reposed_share: float = 0.0) -> NDArray[np.float32]:
    """[S, G] chance of each plan to be drawn for training: even over kinds, and within a kind over good and bad.

    Half of a kind's weight goes to plans below the median EPDMS of its scene, so that rare failures are seen.

    Args:
        scored: Plans.
        held_out_kinds: Places in PLAN_KINDS that are never drawn.
        reposed_share: Chance of all plans from re-posed starts together, where the scene has any; their median is
            their own.
    """
    true = scored.true_epdms()
    is_reposed = scored.kinds == REPOSED
    weights = np.zeros(scored.kinds.shape)
    for side, share in ((~is_reposed, 1.0 - reposed_share), (is_reposed, reposed_share)):
        members = side & scored.valid & ~np.isin(scored.kinds, held_out_kinds)
        median = np.ma.median(np.ma.array(true, mask=~(side & scored.valid)), axis=1, keepdims=True)
        is_bad = true < np.ma.filled(median, 0.0)
        of_side = np.zeros(scored.kinds.shape)
        for kind in np.unique(scored.kinds[members]):
            for group in (is_bad, ~is_bad):
                drawn = (scored.kinds == kind) & members & group
                of_side += drawn / np.maximum(drawn.sum(axis=1, keepdims=True), 1)
        weights += share * of_side / np.maximum(of_side.sum(axis=1, keepdims=True), 1e-12)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def heads_see_scenes(logs: Sequence[str], heads: int, seed: int, unseen_share: float = 1 / 3) -> Tensor:
    """[E, S] from which scenes each head learns: all but those of its own share of logs, drawn once for a run.

    Args:
        logs: Log of each scene.
        heads: E.
        seed: Seed of the reward run.
        unseen_share: Share of the logs that a head never learns from, rounded down to whole logs.
    """
    names = sorted(set(logs))
    sees = torch.ones(heads, len(logs), dtype=torch.bool)
    for head in range(heads):
        order = np.random.default_rng([seed, head, len(names)]).permutation(len(names))
        unseen = {names[i] for i in order[: int(unseen_share * len(names))]}
        sees[head] = torch.tensor([log not in unseen for log in logs])
    return sees


def reward_losses(
    model: RewardWorldModel,
    encoded: EncodedScenes,
    scored: ScoredPlans,
    entries: NDArray[np.int64],
    weights: NDArray[np.float32],
    heads_see: Tensor,
    config: RewardConfig,
    device: torch.device,
) -> dict[str, Tensor]:
    """Losses of one step on some entries of the scored plans; plans are drawn from torch's global generator."""
    drawn = torch.multinomial(torch.from_numpy(weights[entries]), config.plans_per_scene, replacement=True).numpy()
    poses = torch.from_numpy(np.take_along_axis(scored.poses[entries], drawn[..., None, None], axis=1)).to(device)
    start = torch.from_numpy(np.take_along_axis(scored.plan_starts[entries], drawn[..., None], axis=1)).to(device)
    labels = np.take_along_axis(scored.labels[entries], drawn[..., None], axis=1).astype(np.float32)
    rows = scored.rows[entries]
    tokens = encoded.rows(rows, device)
    losses = model.losses(
        poses,
        tokens,
        {name: torch.from_numpy(labels[..., i]).to(device) for i, name in enumerate(PREDICTED)},
        start=start,
        heads_see=heads_see[:, torch.from_numpy(rows)].to(device),
    )
    if config.max_entropy_weight:
        human = torch.from_numpy(scored.poses[entries, :1]).to(device)
        human_start = torch.from_numpy(scored.plan_starts[entries, :1]).to(device)
        rewards_EBG = model.predict(
            torch.cat([human, poses], dim=1), tokens, start=torch.cat([human_start, start], dim=1)
        ).epdms
        # The human chose among plans from the logged start alone.
        elsewhere = torch.from_numpy(np.take_along_axis(scored.kinds[entries], drawn, axis=1) == REPOSED).to(device)
        losses["max_entropy"] = config.max_entropy_weight * max_entropy_loss(
            rewards_EBG[..., 0],
            rewards_EBG[..., 1:].masked_fill(elsewhere, -torch.inf),
            config.max_entropy_temperature,
        )
    return losses


def max_entropy_loss(human_reward: Tensor, other_rewards: Tensor, temperature: float) -> Tensor:
    """How unlikely the human's plan is under a Boltzmann policy on the learned reward.

    The partition function is estimated from the human's plan and the others of its scene, taken as drawn evenly.

    Args:
        human_reward: [...] predicted reward of the human's plan.
        other_rewards: [..., G] of other plans of the same scene.
        temperature: Reward difference that makes a plan e times likelier.
    Returns:
        Mean negative log-likelihood, scalar.
    Source: Ziebart et al. 2008, "Maximum Entropy Inverse Reinforcement Learning", Eq. 2, with the sampled partition
        function of Finn et al. 2016 (arXiv 1603.00448) Eq. 3.
    Example:
        >>> float(max_entropy_loss(torch.zeros(1), torch.zeros(1, 3), temperature=1.0))  # log 4
        1.3862943649291992
    """
    scaled = torch.cat([human_reward[..., None], other_rewards], dim=-1) / temperature
    return (scaled.logsumexp(-1) - scaled[..., 0]).mean()
