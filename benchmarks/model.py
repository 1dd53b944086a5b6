"""Speed of the driving VLA's parts on made-up scenes: what a laptop's CPU affords in training, PPO and planning.

    python benchmarks/model.py [--threads N] [--scenes B] [--candidates G]

Prints one line per figure: wall and CPU time (CPU time is the fairer one on a shared machine), and its ratio to what
the `tiny` recipe's time budget on two cores allows (above 1 is within budget).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from irlvla.model.config import ModelConfig
from irlvla.model.driving_vla import DrivingVLA
from irlvla.model.inputs import BEV_LAYERS, SceneInputs, SceneTargets
from irlvla.model.language import train_tokenizer
from irlvla.model.plan_space import PlanSpace
from irlvla.model.reward import PREDICTED, RewardWorldModel
from irlvla.types import INSTRUCTION

TRAINING_STEP_BUDGET_S = 0.45
"""Wall time of an imitation step of 16 scenes on two threads."""
PLAN_RATE_BUDGET = 2000.0
"""Plan evaluations per second on cached scene tokens, of planner and reward world model, forward and backward."""

ANSWERS = ("Keep speed, straight.", "Slow down, turn left.", "Stop, straight: the light is red.")


def made_up_inputs(config: ModelConfig, scenes: int) -> SceneInputs:
    """Noise images and sweeps seen by level cameras that look ahead and to the sides."""
    cameras = len(config.cameras)
    poses = []
    for yaw_rad in np.linspace(0.96, -0.96, cameras):
        cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
        rotation = np.array([[sin, -cos, 0.0], [0.0, 0.0, -1.0], [cos, sin, 0.0]])
        poses.append(np.concatenate([rotation, -rotation @ [[1.5], [0.0], [1.6]]], axis=1))
    focal = 0.8 * config.image_width
    intrinsic = torch.tensor(
        [[focal, 0, config.image_width / 2], [0, focal, config.image_height / 2], [0, 0, 1]], dtype=torch.float32
    )
    return SceneInputs(
        images=torch.randint(0, 256, (scenes, cameras, 3, config.image_height, config.image_width), dtype=torch.uint8),
        intrinsic=intrinsic.expand(scenes, cameras, 3, 3),
        distortion=torch.zeros(scenes, cameras, 5),
        ego_to_camera=torch.tensor(np.stack(poses), dtype=torch.float32).expand(scenes, cameras, 3, 4),
        lidar=torch.randint(
            0, 100, (scenes, config.lidar_channels, config.lidar_cells, config.lidar_cells), dtype=torch.uint8
        ),
        has_lidar=torch.ones(scenes, dtype=torch.bool),
        ego_status=torch.randn(scenes, 13),
        command=torch.eye(4)[torch.arange(scenes) % 4],
        instructions=(INSTRUCTION,) * scenes,
        tokens=tuple(f"{scene:016x}" for scene in range(scenes)),
    )


def made_up_targets(config: ModelConfig, scenes: int, plans: torch.Tensor) -> SceneTargets:
    """A dozen objects and a dozen map pieces per scene."""
    box_types = torch.full((scenes, config.n_object_queries), -1)
    box_types[:, :12] = 0
    map_types = torch.full((scenes, config.n_map_queries), -1)
    map_types[:, :12] = 0
    cells = 2 * config.bev_cells
    return SceneTargets(
        plan=plans,
        boxes=torch.rand(scenes, config.n_object_queries, 7) * 10 + 1,
        box_types=box_types,
        map_polylines=torch.randn(scenes, config.n_map_queries, config.map_points, 2) * 15,
        map_types=map_types,
        bev_semantics=(torch.rand(scenes, len(BEV_LAYERS), cells, cells) < 0.1).to(torch.uint8),
        speed_word=torch.zeros(scenes, dtype=torch.int64),
        path_word=torch.zeros(scenes, dtype=torch.int64),
        answers=tuple(ANSWERS[scene % len(ANSWERS)] for scene in range(scenes)),
        tokens=tuple(f"{scene:016x}" for scene in range(scenes)),
    )


def made_up_plans(count: int) -> np.ndarray:
    """Arcs of many speeds and bends, [N, 8, 3]."""
    generator = np.random.default_rng(0)
    speed, turn = generator.uniform(0, 15, (count, 1)), generator.normal(0, 0.1, (count, 1))
    time_s = np.arange(1, 9) * 0.5
    heading = turn * time_s
    steps = speed * 0.5 * np.ones(8)
    return np.stack([np.cumsum(steps * np.cos(heading), 1), np.cumsum(steps * np.sin(heading), 1), heading], axis=-1)


def median_times(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median wall and CPU seconds of `work`, after one unmeasured run."""
    work()
    wall, cpu = [], []
    for _ in range(repeats):
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - wall_start)
        cpu.append(time.process_time() - cpu_start)
    return statistics.median(wall), statistics.median(cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scenes", type=int, default=16)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    scenes, candidates = options.scenes, options.candidates

    config = ModelConfig()
    plans = made_up_plans(500)
    vla = DrivingVLA(config, train_tokenizer([INSTRUCTION, *ANSWERS], config.vocabulary), PlanSpace.fit(plans))
    reward = RewardWorldModel(config)
    inputs = made_up_inputs(config, scenes)
    targets = made_up_targets(config, scenes, torch.tensor(plans[:scenes], dtype=torch.float32))

    def report(what: str, work: Callable[[], object], evaluations: int, budget_per_s: float) -> None:
        wall_s, cpu_s = median_times(work, options.repeats)
        print(
            f"{what:34s} wall {1e3 * wall_s:8.1f} ms  CPU {1e3 * cpu_s:8.1f} ms  "
            f"{evaluations / wall_s:9.0f} /s  {evaluations / wall_s / budget_per_s:6.2f} x budget"
        )

    def imitation_step() -> None:
        vla.zero_grad()
        torch.stack(list(vla.imitation_losses(inputs, targets).values())).sum().backward()

    print(f"{scenes} scenes, {candidates} candidates, {options.threads} threads, torch {torch.__version__}")
    vla.train()
    report("imitation step (scenes)", imitation_step, scenes, 16 / TRAINING_STEP_BUDGET_S)
    vla.eval()
    with torch.no_grad():
        tokens = vla.encode(inputs)
        report("encode (scenes)", lambda: vla.encode(inputs), scenes, 16 / TRAINING_STEP_BUDGET_S)
        one = inputs.index_select([0])
        report("plan one scene", lambda: vla.plan(one), 1, 2.0)

    moves = candidates * config.denoising_steps * scenes
    chain = vla.planner.sample_chain(tokens, candidates, min_std=0.05)
    report(
        "denoise chain (moves)",
        lambda: vla.planner.sample_chain(tokens, candidates, min_std=0.05),
        moves,
        PLAN_RATE_BUDGET,
    )
    report(
        "log-probs with gradient (moves)",
        lambda: vla.planner.log_prob(tokens, chain.latents, range(4, 8), min_likelihood_std=0.1).mean().backward(),
        4 * candidates * scenes,
        PLAN_RATE_BUDGET,
    )
    with torch.no_grad():
        report("reward (plans)", lambda: reward.reward(chain.poses, tokens), candidates * scenes, PLAN_RATE_BUDGET)
    labels = {name: torch.rand(scenes, candidates).round() for name in PREDICTED}
    report(
        "reward training step (plans)",
        lambda: torch.stack(list(reward.losses(chain.poses, tokens, labels).values())).sum().backward(),
        candidates * scenes,
        PLAN_RATE_BUDGET,
    )


if __name__ == "__main__":
    main()
