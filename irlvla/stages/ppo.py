"""Stage (c): improve the driver by PPO on its denoising chain, judged by the reward world model.

State = (scene, step k, noisy plan), action = the next, less noisy plan, reward = EPDMS of the finished plan as the
reward world model sees it. Each update draws scenes, lets the present policy make G plans a scene with full noise,
remembers every move's log-probability, has the plans judged, and improves the policy on the remembered moves with
clipped ratios. Encoders stay as imitation left them, so scene tokens are computed once.

Every few updates the averaged policy is judged truly on fixed scenes; where the learned reward and the truth part, the
run stops. The weights saved are the latest whose true EPDMS is not surely below the best.

Legend: S scenes, G plans of one scene, K denoising steps, C plan coefficients.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from irlvla.errors import ConfigError, RunError
from irlvla.model.driving_vla import DrivingVLA
from irlvla.model.planner import Chain, DiffusionPlanner
from irlvla.model.reward import RewardWorldModel, SceneCritic
from irlvla.model.tokens import SceneTokens
from irlvla.stages.advantages import critic_advantages, denoising_discounts, group_advantages
from irlvla.stages.optimisation import WeightAverage, adamw, load_optimizer, optimizer_tensors
from irlvla.stages.policy_gradient import clip_ranges, clipped_surrogate, kl_to_reference, reinforce
from irlvla.stages.practice import Practice, check_policy, model_reward, plans_before, true_scores
from irlvla.stages.refresh import JudgeRefresh, RefreshConfig
from irlvla.stages.reward import heads_see_scenes
from irlvla.stages.run import (
    OnProgress,
    Progress,
    RunFolder,
    load_run_config,
    model_digest,
    no_progress,
    plain,
    seed_step,
)
from irlvla.stages.scenes import DataConfig, open_training_scenes, scene_logs, split_by_log
from irlvla.stages.scored_plans import load_scored_plans
from irlvla.stages.watch import WatchConfig, hacking_alarm, sure_fall
from irlvla.types import Array


@dataclass(frozen=True)
class PPOConfig:
    """How stage (c) trains. Values are our own choice: the paper names none."""

    updates: int = 100
    """Rounds of planning, judging and improving."""
    scenes_per_update: int = 16
    """S, scenes a round."""
    plans_per_scene: int = 8
    """G, plans a scene."""
    algorithm: Literal["ppo", "grpo", "reinforce"] = "ppo"
    """ppo: clipped ratios, baseline as below. grpo: the same with group baseline and a KL penalty towards the
    imitation policy. reinforce: one unclipped pass, group baseline."""
    baseline: Literal["group", "critic"] = "group"
    """What a plan is compared with: the scene's other plans, or a critic on the scene tokens."""
    reward: Literal["rwm", "simulator"] = "rwm"
    """Who judges: the reward world model, or the true scorer (the oracle arm)."""
    pessimism_beta: float = 1.0
    """Standard deviations over the ensemble taken off the reward."""
    extended_comfort: bool = True
    """Whether the reward compares each plan with the policy's own plan 0.5 s earlier, where that frame is a scene."""

    inner_epochs: int = 2
    """Passes over the moves of one round."""
    minibatches: int = 2
    """Parts, by scene, of one pass."""
    trained_steps: int = 5
    """Last denoising steps whose moves are improved."""
    denoising_discount: float = 0.8
    """Credit of each earlier step, relative to the one after it."""
    clip_noisy: float = 0.005
    """Clip range at the first trained step; see `clip_ranges`."""
    clip_final: float = 0.02
    """Clip range at the last step."""
    target_kl: float = 0.02
    """A round stops early where the policy has moved this far from the one that planned."""
    advantage_floor: float = 0.05
    """Smallest deviation of rewards that is scaled to one."""
    advantage_limit: float = 4.0
    """Advantages are cut off beyond this."""
    min_std: float = 0.1
    """Floor of the sampling noise of each move, in plan-space units (spread of human plans)."""
    min_likelihood_std: float = 0.1
    """Floor of the deviation in log-probabilities."""
    policy_weight: float = 1.0
    """Weight of the policy loss; 0 leaves only imitation on the same scenes: the control arm that tells what PPO
    adds."""
    imitation_weight: float = 0.1
    """Weight of the loss against human plans of the same scenes."""
    imitation_draws: int = 4
    """Noise levels drawn a scene for that loss."""
    kl_weight: float = 0.05
    """grpo only: weight of the penalty towards the imitation policy."""
    learning_rate: float = 1e-4
    """AdamW on the planner."""
    critic_learning_rate: float = 1e-3
    """AdamW on the critic."""
    gradient_norm: float = 1.0
    """Gradients are clipped to this norm."""
    average_decay: float = 0.97
    """Decay of the averaged planner weights; they are what is checked and saved."""
    mixed_scene_share: float = 0.7
    """Share of the draw that favours scenes whose plans came out mixed; the rest is uniform."""

    refresh: RefreshConfig = field(default_factory=RefreshConfig)
    """Scoring the present policy's plans truly, and training the reward model on them, between updates."""
    watch: WatchConfig = field(default_factory=WatchConfig)
    """Reward-hacking watch."""
    log_every: int = 1
    """Updates between lines in metrics.jsonl."""
    checkpoint_every: int = 10
    """Updates between resume states."""
    trackers: tuple[str, ...] = ()
    """Accelerate's trackers to log to besides metrics.jsonl, for instance "tensorboard" or "wandb"."""

    def __post_init__(self) -> None:
        if self.algorithm != "ppo" and self.baseline == "critic":
            raise ConfigError(f"algorithm {self.algorithm!r} takes baseline 'group'; the critic belongs to 'ppo'")
        if self.plans_per_scene < 2 and self.baseline == "group":
            raise ConfigError("a group baseline needs plans_per_scene of 2 or more")


def train_ppo(
    imitation_run: Path,
    reward_run: Path | None,
    config: PPOConfig,
    data: DataConfig,
    out: Path,
    *,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
) -> Path:
    """Improve the imitation policy; goes on where an interrupted run of the same settings stopped.

    Args:
        imitation_run: Finished run of stage (a).
        reward_run: Finished run of stage (b) on the same policy and scenes; None only where the simulator is the
            reward, and then nothing watches for reward hacking.
        config: How to improve.
        data: Scenes to practise on, those of the reward run.
        out: Run folder.
        seed: Fixes scenes, noise and the critic's initial weights.
        on_progress: Told after every update.
    Returns:
        Folder of the final weights, `DrivingVLA.from_pretrained` reads it.
    Raises:
        RunError: an earlier run is missing, unfinished or does not fit; `out` holds another run; the disk is full.
        DataError: the data root or one of its files is missing or damaged.
    """
    load_run_config(imitation_run, "imitation")
    digests = {"imitation_model": model_digest(imitation_run)}
    if reward_run is not None:
        reward_seed = _check_reward_run(reward_run, digests["imitation_model"], data)
        digests["reward_model"] = model_digest(reward_run)
    elif config.reward == "rwm":
        raise ConfigError("reward 'rwm' needs a finished reward run; without one, choose reward 'simulator'")
    run = RunFolder(out, "ppo", {"ppo": config, "data": data, **digests}, seed)
    if run.finished:
        return run.model_path
    run.start_trackers(config.trackers)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vla = DrivingVLA.from_pretrained(imitation_run / "model").to(device).requires_grad_(False)
    planner = vla.planner.requires_grad_(True)
    reference = DrivingVLA.from_pretrained(imitation_run / "model").to(device).planner.requires_grad_(False)
    scenes = open_training_scenes(data)
    scored = None if reward_run is None else load_scored_plans(reward_run)
    folders = [out] if reward_run is None else [reward_run, out]
    practice = Practice.open(vla, scenes, scored, folders, digests["imitation_model"], on_progress)
    training_rows, held_out_rows = split_by_log(scene_logs(scenes), data.held_out_share, data.draw)
    training_rows = [row for row in training_rows if row in practice.starts]
    watched = _rows_to_watch(practice, held_out_rows or training_rows, config.watch.scenes)

    judge, refresh = None, None
    if reward_run is not None and scored is not None:
        judge = RewardWorldModel.from_pretrained(reward_run / "model").to(device).eval()
        heads_see = heads_see_scenes(scene_logs(scenes), vla.config.reward_heads, reward_seed)
        refresh = JudgeRefresh(
            judge, practice, scored.only(training_rows), heads_see, config.refresh, out / "refreshed_plans"
        )
    seed_step(seed, 0, "weights")
    critic = SceneCritic(vla.config).to(device)
    optimizer = adamw(planner, config.learning_rate, weight_decay=0.0)
    critic_optimizer = adamw(critic, config.critic_learning_rate, weight_decay=0.0)
    average = WeightAverage(planner, config.average_decay)
    watch = _Watch(practice, watched, average, config)
    # How far each scene's plans differed in reward when it was last drawn; a scene not yet drawn counts as mixed.
    mixed = torch.ones(len(training_rows))
    start, stopped = 0, None
    checkpoint = run.load_checkpoint()
    if checkpoint is not None:
        start = checkpoint.step
        planner.load_state_dict(checkpoint.part("planner"))
        critic.load_state_dict(checkpoint.part("critic"))
        load_optimizer(optimizer, checkpoint.part("optimizer"))
        load_optimizer(critic_optimizer, checkpoint.part("critic_optimizer"))
        average.load(checkpoint.part("average"), updates=start)
        mixed = checkpoint.part("scenes")["mixed"]
        watch.load(checkpoint.counters, checkpoint.part("kept"), checkpoint.part("watch"))
        if refresh is not None:
            refresh.load_state(checkpoint.part("judge"), start)

    for update in range(start, config.updates):
        facts: dict[str, float] = {}
        if config.watch.every and update % config.watch.every == 0:
            seed_step(seed, update, "watch")
            alarm = watch.check(planner, judge)
            facts |= watch.facts()
            if alarm and watch.alarms >= config.watch.patience:
                stopped = f"stopped after {update} updates: {alarm}"
                run.log(update + 1, facts)
                break
        if refresh is not None and refresh.is_due(update):
            seed_step(seed, update, "refresh")
            facts |= refresh.refresh(planner, training_rows, update)

        seed_step(seed, update, "ppo")
        drawn = _draw_scenes(mixed, config)
        rows = [training_rows[i] for i in drawn.tolist()]
        tokens = practice.encoded.rows(rows, device)
        chain = planner.sample_chain(
            tokens,
            config.plans_per_scene,
            eta=1.0,
            min_std=config.min_std,
            min_likelihood_std=config.min_likelihood_std,
        )
        before = plans_before(planner, practice, rows) if config.extended_comfort else None
        if judge is not None and config.reward == "rwm":
            rewards_SG, seen = model_reward(judge, practice, rows, tokens, chain.poses, before, config.pessimism_beta)
            facts |= {f"rollout/{name}": float(value.nanmean()) for name, value in seen.items()}
        else:
            rewards_SG = torch.from_numpy(true_scores(practice, rows, chain.poses, before)[0]).float().to(device)
        mixed[drawn] = rewards_SG.std(dim=1, correction=0).cpu()

        if config.baseline == "critic":
            with torch.no_grad():
                values_S = critic(tokens)
            advantages_SG = critic_advantages(rewards_SG, values_S, config.advantage_floor)
            facts["critic_loss"] = _fit_critic(critic, critic_optimizer, tokens, rewards_SG, config)
        else:
            advantages_SG = group_advantages(rewards_SG, config.advantage_floor)
        advantages_SG = advantages_SG.clamp(-config.advantage_limit, config.advantage_limit)
        human_plans = practice.human_plans[rows].to(device)
        facts |= improve_policy(
            planner, optimizer, Rollouts(tokens, chain, human_plans), advantages_SG, config, reference=reference
        )
        average.update(planner)

        done = update + 1
        facts |= {
            "reward": float(rewards_SG.mean()),
            "reward_deviation": float(rewards_SG.std(dim=1, correction=0).mean()),
            "advantage_deviation": float(advantages_SG.std(correction=0)),
        }
        if done % config.log_every == 0 or done == config.updates or "watch/true_epdms" in facts:
            run.log(done, facts)
            on_progress(Progress("ppo", done, config.updates, facts))
        if done % config.checkpoint_every == 0 and done < config.updates:
            run.save_checkpoint(
                done,
                {
                    "planner": planner.state_dict(),
                    "critic": critic.state_dict(),
                    "optimizer": optimizer_tensors(optimizer),
                    "critic_optimizer": optimizer_tensors(critic_optimizer),
                    "average": average.average,
                    "kept": watch.kept,
                    "watch": watch.scores(),
                    "scenes": {"mixed": mixed},
                    "judge": {} if refresh is None else refresh.state(),
                },
                checks=watch.checks,
                alarms=watch.alarms,
            )

    if config.watch.every and stopped is None:
        seed_step(seed, config.updates, "watch")
        watch.check(planner, judge)
        run.log(config.updates, watch.facts())
    if config.watch.every:
        average.average = watch.kept
    with average.applied_to(planner):
        if refresh is not None and config.refresh.every:
            refresh.save(out / "reward_model")
        run.finish(
            vla.save_pretrained,
            config.updates,
            checks=watch.checks,
            stopped=stopped,
            scenes=len(training_rows),
            watched_scenes=[scenes.tokens[row] for row in watched],
        )
    return run.model_path


@dataclass(frozen=True)
class Rollouts:
    """One round's plans and all that improving on them needs."""

    tokens: SceneTokens
    chain: Chain
    human_plans: Tensor
    """[S, 8, 3] ego frame."""


def improve_policy(
    planner: DiffusionPlanner,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    advantages_SG: Tensor,
    config: PPOConfig,
    *,
    reference: DiffusionPlanner | None = None,
) -> dict[str, float]:
    """Improve the policy on the moves of one round.

    Args:
        planner: The policy; changed in place.
        optimizer: Over the planner's weights.
        rollouts: The round, with log-probabilities as they were when the moves were made.
        advantages_SG: [S, G] how much better each plan did than expected.
        config: How to improve.
        reference: grpo: the policy to stay close to.
    Returns:
        Means over all minibatches: losses, ratio, clip fraction, KL; and "minibatches", how many were taken.
    """
    total_steps = len(rollouts.chain.latents) - 1
    steps = list(range(total_steps - min(config.trained_steps, total_steps), total_steps))
    credit_K = denoising_discounts(len(steps), config.denoising_discount).to(advantages_SG)
    reach_K = clip_ranges(len(steps), config.clip_noisy, config.clip_final).to(advantages_SG)
    noise = {"eta": 1.0, "min_std": config.min_std, "min_likelihood_std": config.min_likelihood_std}
    sums: dict[str, float] = {}
    count = 0
    epochs = 1 if config.algorithm == "reinforce" else config.inner_epochs
    for _ in range(epochs):
        for scenes in torch.randperm(len(rollouts.tokens)).chunk(config.minibatches):
            tokens = rollouts.tokens.index_select(scenes)
            latents = rollouts.chain.latents[:, scenes]
            log_probs = planner.log_prob(tokens, latents, steps, **noise)
            old_log_probs = rollouts.chain.log_probs[steps][:, scenes]
            advantages_KSG = credit_K[:, None, None] * advantages_SG[scenes]
            surrogate = clipped_surrogate(log_probs, old_log_probs, advantages_KSG, reach_K)
            figures = {
                "ratio": surrogate.ratio_mean,
                "clip_fraction": surrogate.clip_fraction,
                "kl": surrogate.kl,
            }
            policy_loss = surrogate.loss
            if config.algorithm == "reinforce":
                policy_loss = reinforce(log_probs, advantages_KSG)
            elif config.algorithm == "grpo" and reference is not None:
                with torch.no_grad():
                    reference_log_probs = reference.log_prob(tokens, latents, steps, **noise)
                penalty = kl_to_reference(log_probs, reference_log_probs)
                policy_loss = policy_loss + config.kl_weight * penalty
                figures["kl_to_imitation"] = float(penalty.detach())
            if count and surrogate.kl > config.target_kl:
                return {name: value / count for name, value in sums.items()} | {"minibatches": float(count)}
            coefficient_loss, waypoint_loss = planner.denoising_loss(
                tokens, rollouts.human_plans[scenes], draws=config.imitation_draws
            )
            imitation_loss = coefficient_loss + 0.5 * waypoint_loss
            loss = config.policy_weight * policy_loss + config.imitation_weight * imitation_loss
            optimizer.zero_grad()
            loss.backward()
            figures["gradient_norm"] = float(torch.nn.utils.clip_grad_norm_(planner.parameters(), config.gradient_norm))
            optimizer.step()
            figures |= {
                "policy_loss": float(policy_loss.detach()),
                "imitation_loss": float(imitation_loss.detach()),
            }
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value
            count += 1
    return {name: value / count for name, value in sums.items()} | {"minibatches": float(count)}


def _draw_scenes(mixed: Tensor, config: PPOConfig) -> Tensor:
    """Scenes of one round, without repeats where there are enough: mixed ones more often, the others still seen.

    Scenes whose plans all score alike have no gradient; only hard scenes would make the policy forget the easy ones.
    """
    share = mixed + 1e-6
    chance = config.mixed_scene_share * share / share.sum() + (1 - config.mixed_scene_share) / len(mixed)
    return torch.multinomial(chance, config.scenes_per_update, replacement=len(mixed) < config.scenes_per_update)


def _fit_critic(
    critic: SceneCritic,
    optimizer: torch.optim.Optimizer,
    tokens: SceneTokens,
    rewards_SG: Tensor,
    config: PPOConfig,
) -> float:
    loss = torch.nn.functional.mse_loss(critic(tokens), rewards_SG.mean(dim=1))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(critic.parameters(), config.gradient_norm)
    optimizer.step()
    return float(loss.detach())


class _Watch:
    """The checks of a run, and the weights that they speak for: the latest not surely worse than the best.

    The check with the best mean alone would be chosen by luck: a hundred scenes cannot tell two good policies apart.
    """

    def __init__(self, practice: Practice, rows: list[int], average: WeightAverage, config: PPOConfig) -> None:
        self._practice, self._rows, self._average, self._config = practice, rows, average, config
        self.checks: list[dict[str, float]] = []
        self.alarms = 0
        self._first_S: Array | None = None
        self._best_S: Array | None = None
        self.kept = self._weights()

    def check(self, planner: DiffusionPlanner, judge: RewardWorldModel | None) -> str | None:
        """Judge the averaged weights; returns what is alarming about them."""
        config = self._config
        with self._average.applied_to(planner):
            figures, true_S = check_policy(
                planner,
                judge,
                self._practice,
                self._rows,
                config.watch.plans,
                config.min_std,
                extended_comfort=config.extended_comfort,
            )
        if self._first_S is None or self._best_S is None:
            self._first_S = self._best_S = true_S
        self.checks.append(figures | {"sure_fall": sure_fall(self._first_S, true_S)})
        if sure_fall(self._best_S, true_S) <= 0:
            self.kept = self._weights()
        if true_S.mean() > self._best_S.mean():
            self._best_S = true_S
        alarm = None if judge is None else hacking_alarm(self.checks, config.watch)
        self.alarms = self.alarms + 1 if alarm else 0
        return alarm

    def facts(self) -> dict[str, float]:
        """The latest check, for the log."""
        return {f"watch/{name}": value for name, value in self.checks[-1].items()} | {"watch/alarms": self.alarms}

    def scores(self) -> dict[str, Tensor]:
        """What a checkpoint needs beside `checks`, `alarms` and `kept`."""
        if self._first_S is None or self._best_S is None:
            return {}
        return {"first": torch.from_numpy(self._first_S), "best": torch.from_numpy(self._best_S)}

    def load(self, counters: Mapping[str, Any], kept: dict[str, Tensor], scores: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        self.checks, self.alarms, self.kept = counters["checks"], counters["alarms"], kept
        if scores:
            self._first_S, self._best_S = scores["first"].numpy(), scores["best"].numpy()

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._average.average.items()}


def _rows_to_watch(practice: Practice, rows: list[int], count: int) -> list[int]:
    """Evenly spaced scenes; those with an earlier frame first, since only they show extended comfort."""
    known = list(practice.scorer.scorable(row for row in rows if row in practice.starts))
    paired = [row for row in known if practice.earlier[row] >= 0] or known
    places = np.unique(np.linspace(0, len(paired) - 1, min(count, len(paired))).round().astype(int))
    return [paired[i] for i in places]


def _check_reward_run(reward_run: Path, policy: str, data: DataConfig) -> int:
    """Seed of the reward run, if it fits."""
    run = load_run_config(reward_run, "reward")
    config = run["config"]
    if config["imitation_model"] != policy:
        raise RunError(
            f"{reward_run} was trained on the scene tokens of another imitation run: train the reward model on this one"
        )
    found, wanted = config["data"], plain(data)
    differing = [name for name in wanted if name != "root" and found.get(name) != wanted[name]]
    if differing:
        raise RunError(
            f"{reward_run} scored plans on other scenes ({', '.join(differing)} differ): give PPO its data settings"
        )
    return int(run["seed"])
