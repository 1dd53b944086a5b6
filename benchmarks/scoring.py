"""What scoring costs: context per scene, and time per plan against plans per scene, beside the plain twin.

    python benchmarks/scoring.py --data tests/golden/alpha --split test

Prints Markdown. Ratios are medians over scenes of the plain twin's time to the fast scorer's, in the same run on the
same machine; the plain twin is `irlvla.scoring.reference`, not the devkit.
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from irlvla.data.maps import load_map
from irlvla.data.scenes import SceneSet, open_scenes
from irlvla.scoring.context import ScoringContext, build_context
from irlvla.scoring.reactive import score_reactive, traffic_start
from irlvla.scoring.reference.score import score as score_plainly
from irlvla.scoring.reference.surroundings import surroundings
from irlvla.scoring.score import score, simulate_plans
from irlvla.simulation.reactive_traffic import TrafficStart
from irlvla.types import Array

PLANS_PER_SCENE = (1, 4, 16, 64, 256)


def timed(work: Callable[[], object], repeats: int = 3) -> float:
    """Median processor time (s); other load on the machine does not count."""
    spans = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        spans.append(time.process_time() - start)
    return float(np.median(spans))


def disturbed(context: ScoringContext, count: int) -> Array:
    """Plans [1, count, 8, 3] around the human's."""
    rng = np.random.default_rng(int(context.token[:8], 16))
    drift = np.cumsum(rng.normal(size=(1, count, 8, 3)), axis=2) * [0.4, 0.15, 0.02]
    return context.human_plan * rng.uniform(0.7, 1.2, size=(1, count, 1, 1)) + drift


def reactive_s_a_plan(context: ScoringContext, start: TrafficStart, count: int) -> float:
    """Time (s) a plan of scoring `count` plans in reactive traffic, the human's drive not included."""
    plans = disturbed(context, count)
    return timed(lambda: score_reactive([context], [start], plans, human_filter=False)) / count


def report(scenes: SceneSet) -> str:
    """The benchmark's tables as Markdown."""
    maps = {scene.map_location: load_map(scenes.root, scene.map_location) for scene in scenes}
    began_s = time.process_time()
    contexts = [build_context(scenes[0], maps[scenes[0].map_location])]
    score(contexts, disturbed(contexts[0], 1))
    first_s = time.process_time() - began_s
    building, plain, fast, simulating, reacting = [], [], [], [], []
    for scene in scenes:
        city_map = maps[scene.map_location]
        context = build_context(scene, city_map)
        building.append(timed(lambda scene=scene, city_map=city_map: build_context(scene, city_map)))
        around, human = surroundings(context), context.human_plan
        plain.append(timed(lambda c=context, a=around, h=human: score_plainly(c, a, h), 1))
        per_plan = []
        for count in PLANS_PER_SCENE:
            plans = disturbed(context, count)
            per_plan.append(timed(lambda c=context, p=plans: score([c], p)) / count)
        fast.append(per_plan)
        start = traffic_start(scenes, context)
        reacting.append([reactive_s_a_plan(context, start, count) for count in (1, 64)])
        plans = disturbed(context, PLANS_PER_SCENE[-1])
        simulating.append(timed(lambda c=context, p=plans: simulate_plans([c], p)) / PLANS_PER_SCENE[-1])
    fast_s, plain_s, simulating_us = np.array(fast), np.array(plain), 1e6 * np.array(simulating)
    reacting_ms = 1e3 * np.array(reacting)
    lines = [
        f"{len(scenes)} scenes, one core, {platform.machine()}, Python {platform.python_version()}, "
        f"NumPy {np.__version__}. First context and score, kernels loaded or compiled: {first_s:.1f} s.",
        "",
        "| work | median | 90th percentile |",
        "|---|---|---|",
        f"| scoring context, ms a scene | {np.median(building) * 1e3:.1f} | {np.quantile(building, 0.9) * 1e3:.1f} |",
        f"| plain twin, ms a plan | {np.median(plain_s) * 1e3:.1f} | {np.quantile(plain_s, 0.9) * 1e3:.1f} |",
        f"| reactive traffic, one plan a scene, ms a plan | {np.median(reacting_ms[:, 0]):.2f} "
        f"| {np.quantile(reacting_ms[:, 0], 0.9):.2f} |",
        f"| reactive traffic, 64 plans a scene, ms a plan | {np.median(reacting_ms[:, 1]):.2f} "
        f"| {np.quantile(reacting_ms[:, 1], 0.9):.2f} |",
        f"| simulation alone, us a plan | {np.median(simulating_us):.1f} | {np.quantile(simulating_us, 0.9):.1f} |",
        "",
        "| plans a scene | us a plan, median | 90th percentile | plain twin / fast |",
        "|---|---|---|---|",
    ]
    for column, count in enumerate(PLANS_PER_SCENE):
        spent = fast_s[:, column]
        lines.append(
            f"| {count} | {np.median(spent) * 1e6:.0f} | {np.quantile(spent, 0.9) * 1e6:.0f} "
            f"| {np.median(plain_s / spent):.0f} x |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What scoring costs.")
    parser.add_argument("--data", type=Path, required=True, help="data root")
    parser.add_argument("--split", default="test")
    parser.add_argument("--scenes", type=int, default=40, help="scenes to measure, spread over the split")
    options = parser.parse_args()
    found = open_scenes(options.data, options.split, num_future_frames=8)
    picked = np.unique(np.linspace(0, len(found) - 1, options.scenes).astype(int))
    tokens = found.tokens
    print(report(found.subset(tokens[index] for index in picked)))


if __name__ == "__main__":
    main()
