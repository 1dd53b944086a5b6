"""How fast a drive goes in closed loop: simulated seconds per second, and where the time goes.

Run: python benchmarks/closed_loop.py [PRESET] [SECONDS]
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from irlvla.evaluation.policies import ConstantVelocity, LearnedPolicy
from irlvla.model.config import ModelConfig
from irlvla.model.driving_vla import DrivingVLA
from irlvla.model.language import make_tokenizer
from irlvla.model.plan_space import PlanSpace
from irlvla.recipes import load_recipe
from irlvla.types import INSTRUCTION, Policy
from irlvla.world.closed_loop import ClosedLoop
from irlvla.world.place import Place, held_out_networks, open_place
from irlvla.world.presets import PRESETS


def untrained_policy(config: ModelConfig, folder: Path) -> LearnedPolicy:
    """A driver with fresh weights: what it costs does not depend on what it knows."""
    speeds = np.linspace(0.0, 15.0, 64)
    plans = np.zeros((64, 8, 3))
    plans[:, :, 0] = speeds[:, None] * 0.5 * np.arange(1, 9)
    plans[:, :, 1] = np.linspace(-3.0, 3.0, 64)[:, None] * (np.arange(1, 9) / 8) ** 2
    tokenizer = make_tokenizer(config, [INSTRUCTION, "Keep speed, stay in the lane: the road ahead is free."])
    DrivingVLA(config, tokenizer, PlanSpace.fit(plans, config.plan_coefficients)).save_pretrained(folder)
    return LearnedPolicy(folder, name="tiny")


def time_drives(place: Place, policy: Policy, seconds: float, *, sensors: bool = True) -> None:
    """Drive until `seconds` are simulated, and print what a simulated second costs."""
    loop = ClosedLoop(place, time_limit_s=20.0, sensors=sensors)
    simulated_s = planning_s = wall_s = own_s = 0.0
    seed = 0
    scene = loop.start(seed)
    # Compiled kernels and warm caches.
    loop.advance(policy.plan([scene])[0])
    while simulated_s < seconds:
        start, own = time.perf_counter(), time.process_time()
        plan = policy.plan([loop.scene])[0]
        planning_s += time.perf_counter() - start
        stretch = loop.advance(plan)
        wall_s += time.perf_counter() - start
        own_s += time.process_time() - own
        simulated_s += 0.5
        if stretch.end is not None:
            seed += 1
            loop.start(seed)
    loop.close()
    what = "with cameras and LiDAR" if sensors else "without sensors"
    print(
        f"{place.spec.location}, {policy.name}, {what}: {simulated_s / wall_s:.1f} x real time "
        f"({1000 * wall_s / simulated_s:.0f} ms a simulated second: planning {1000 * planning_s / simulated_s:.0f} ms, "
        f"CPU of this process {1000 * own_s / simulated_s:.0f} ms)"
    )


if __name__ == "__main__":
    preset = PRESETS[sys.argv[1] if len(sys.argv) > 1 else "tiny"]
    wanted_s = float(sys.argv[2]) if len(sys.argv) > 2 else 30.0
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        driver = untrained_policy(load_recipe("tiny").model, Path(scratch) / "model")
        for network in held_out_networks(preset):
            held_out = open_place(preset, network, 0, Path(scratch))
            time_drives(held_out, driver, wanted_s)
            time_drives(held_out, ConstantVelocity(), wanted_s)
            time_drives(held_out, ConstantVelocity(), wanted_s, sensors=False)
