"""What scoring costs, per plan and per scene, where the time goes, and beside what: the plain twin and the devkit.

    python benchmarks/scoring.py --data tests/golden/alpha --split test
    python benchmarks/scoring.py --data ROOT --split test --devkit PYTHON NAVSIM NUPLAN_DEVKIT

Prints Markdown. Times are processor times. With `--devkit` (its Python, and the folders of navsim v2.2 and
nuplan-devkit v1.2) the official code scores the same scenes and plans in the same run, and the figures are compared.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from devkit import SUB_SCORES

from irlvla.checkout import checkout_commit
from irlvla.data.maps import load_map
from irlvla.data.plans import PlanTable, write_plans
from irlvla.data.scenes import SceneSet, constant_velocity_plan, human_plan, open_scenes
from irlvla.scoring import rollout_scores
from irlvla.scoring.context import ScoringContext, build_context, build_contexts
from irlvla.scoring.reactive import score_reactive, traffic_start
from irlvla.scoring.reference.score import score as score_plainly
from irlvla.scoring.reference.surroundings import surroundings
from irlvla.scoring.score import score, score_parallel
from irlvla.scoring.table import score_plans
from irlvla.simulation.reference import reference_poses
from irlvla.simulation.tracker import simulate
from irlvla.types import Array

PLANS_PER_SCENE = (1, 4, 16, 64, 256, 1024)
MANY = 256
REACTIVE_PLANS_PER_SCENE = (1, 16, 64)
DEVKIT_PLANS = 4
"""Plans a scene that the devkit scores; its time a plan does not depend on their number."""


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


def row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def spread(values: Array | list[float], unit: float, digits: int = 1) -> str:
    """Median and 90th percentile over scenes, as two cells."""
    return f"{np.median(values) * unit:.{digits}f} | {np.quantile(values, 0.9) * unit:.{digits}f}"


@dataclass(frozen=True)
class Measured:
    """Processor times (s) over scenes."""

    context_s: list[float]
    plain_s: list[float]
    plan_s: Array
    """[scenes, PLANS_PER_SCENE] a plan."""
    memory_bytes: Array
    """[scenes, PLANS_PER_SCENE] peak a plan."""
    reactive_s: Array
    """[scenes, REACTIVE_PLANS_PER_SCENE] a plan."""
    parts_s: dict[str, list[float]]
    """Per step, a plan at MANY plans."""


def parts(context: ScoringContext) -> dict[str, float]:
    """Processor time (s) a plan of each step, at MANY plans a scene."""
    plans = disturbed(context, MANY)[0]
    reference = reference_poses(plans, context.ego_state[:3], context.now_us)
    rollouts = simulate(reference, context.ego_state)
    ego = rollout_scores.footprints(rollouts)
    areas = rollout_scores.ego_areas(context.road, ego)
    traffic, lights, line = context.traffic, context.lights, context.road.centerline
    steps: dict[str, Callable[[], object]] = {
        "reference poses": lambda: reference_poses(plans, context.ego_state[:3], context.now_us),
        "tracker and bicycle": lambda: simulate(reference, context.ego_state),
        "footprints": lambda: rollout_scores.footprints(rollouts),
        "ego areas (for DAC, DDC, NC, TTC, LK)": lambda: rollout_scores.ego_areas(context.road, ego),
        "no_at_fault_collisions": lambda: rollout_scores.collision(traffic, ego, areas),
        "drivable_area_compliance": lambda: rollout_scores.drivable_area(areas),
        "driving_direction_compliance": lambda: rollout_scores.driving_direction(ego, areas),
        "traffic_light_compliance": lambda: rollout_scores.traffic_light(lights, ego),
        "time_to_collision_within_bound": lambda: rollout_scores.time_to_collision(traffic, ego, areas),
        "lane_keeping": lambda: rollout_scores.lane_keeping(line, ego, areas),
        "history_comfort": lambda: rollout_scores.history_comfort(context.history_states, rollouts),
        "ego_progress": lambda: rollout_scores.progress_along_route(line, ego),
    }
    return {name: timed(work) / MANY for name, work in steps.items()}


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def measure(scenes: SceneSet) -> Measured:
    building, plain, fast, memory, reacting = [], [], [], [], []
    profile: dict[str, list[float]] = {}
    for scene in scenes:
        city_map = load_map(scenes.root, scene.map_location)
        context = build_context(scene, city_map)
        building.append(timed(lambda scene=scene, city_map=city_map: build_context(scene, city_map)))
        around, human = surroundings(context), context.human_plan
        plain.append(timed(lambda c=context, a=around, h=human: score_plainly(c, a, h), 1))
        batches = [disturbed(context, count) for count in PLANS_PER_SCENE]
        fast.append([timed(lambda c=context, p=plans: score([c], p)) / plans.shape[1] for plans in batches])
        memory.append([peak_bytes(lambda c=context, p=plans: score([c], p)) / plans.shape[1] for plans in batches])
        start = traffic_start(scenes, context)
        per_plan = []
        for count in REACTIVE_PLANS_PER_SCENE:
            plans = disturbed(context, count)
            spent = timed(lambda c=context, s=start, p=plans: score_reactive([c], [s], p, human_filter=False))
            per_plan.append(spent / count)
        reacting.append(per_plan)
        for name, spent in parts(context).items():
            profile.setdefault(name, []).append(spent)
    return Measured(building, plain, np.array(fast), np.array(memory), np.array(reacting), profile)


def throughput(scenes: SceneSet) -> list[str]:
    """Wall-clock rates on one core and on two."""
    lines = ["", "| work | 1 core | 2 cores |", "|---|---:|---:|"]
    spans = []
    for workers in (1, 2):
        start = time.perf_counter()
        build_contexts(scenes, workers=workers)
        spans.append(len(scenes) / (time.perf_counter() - start))
    lines.append(row("contexts a second (two cores: start of processes included)", *(f"{rate:.0f}" for rate in spans)))
    contexts = list(build_contexts(scenes)[0].values())
    plans = np.concatenate([disturbed(context, MANY) for context in contexts])
    spans = []
    for workers in (1, 2):
        start = time.perf_counter()
        score_parallel(contexts, plans, workers)
        spans.append(plans.shape[0] * plans.shape[1] / (time.perf_counter() - start))
    lines.append(row(f"plans a second, {MANY} a scene, contexts built", *(f"{rate:,.0f}" for rate in spans)))
    return lines


@dataclass(frozen=True)
class Devkit:
    """Where the official devkit is."""

    python: Path
    navsim: Path
    nuplan: Path


def against_devkit(scenes: SceneSet, split: str, devkit: Devkit) -> list[str]:
    """The official code on the same scenes and plans, in the same run: times, ratios, and whether the figures agree."""
    tokens, poses = [], []
    contexts, _ = build_contexts(scenes)
    for token, context in contexts.items():
        scene = scenes.by_token(token)
        several = [human_plan(scene), constant_velocity_plan(scene), *disturbed(context, DEVKIT_PLANS - 2)[0]]
        tokens += [token] * DEVKIT_PLANS
        poses += several
    lines = [
        "",
        "| traffic | work | devkit, median | 90 % | ours, median | 90 % | ratio of medians |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    agreement = []
    for traffic in ("non_reactive", "reactive"):
        with tempfile.TemporaryDirectory() as folder:
            plans_file, out = Path(folder) / "plans.npz", Path(folder) / "devkit.json"
            write_plans(plans_file, tokens, np.array(poses))
            subprocess.run(
                [str(devkit.python), str(Path(__file__).with_name("devkit.py")), str(scenes.root.resolve()), split,
                 str(plans_file), str(out), traffic],
                env={**os.environ, "PYTHONPATH": f"{devkit.navsim}{os.pathsep}{devkit.nuplan}",
                     "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                cwd=folder, check=True, capture_output=True,
            )  # fmt: skip
            official = json.loads(out.read_text(encoding="utf-8"))
        ours = measure_for_devkit(scenes, contexts, traffic)
        if traffic == "non_reactive":
            ratio = np.median(official["context_s"]) / np.median(ours["context"])
            lines.append(
                row("both", "scene context, ms", spread(official["context_s"], 1e3), spread(ours["context"], 1e3),
                    f"{ratio:.0f} x")
            )  # fmt: skip
        for name in [name for name in ours if name != "context"]:
            ratio = np.median(official["plan_s"]) / np.median(ours[name])
            lines.append(
                row(traffic, f"plan, ms ({name})", spread(official["plan_s"], 1e3), spread(ours[name], 1e3, 3),
                    f"{ratio:,.0f} x")
            )  # fmt: skip
        table = score_plans(scenes, PlanTable(tuple(tokens), ("plan",) * len(tokens), np.array(poses)), traffic=traffic)
        theirs = np.array(official["scores"])
        mine = np.stack([np.asarray(table[name]) for name in SUB_SCORES], axis=1)
        equal = np.isclose(mine, theirs, rtol=0.0, atol=1e-6)
        agreement.append(f"{traffic}: {int(equal.sum())} of {equal.size} sub-scores equal within 1e-6")
    return [*lines, "", "Agreement with the devkit in this run: " + "; ".join(agreement) + "."]


def measure_for_devkit(scenes: SceneSet, contexts: dict[str, ScoringContext], traffic: str) -> dict[str, list[float]]:
    """Our times for what the devkit does: with the human's simulation, as its filter takes it."""
    counts = (1, MANY) if traffic == "non_reactive" else (1, REACTIVE_PLANS_PER_SCENE[-1])
    spent: dict[str, list[float]] = {"context": [], **{f"{count} a scene": [] for count in counts}}
    for token, context in contexts.items():
        scene = scenes.by_token(token)
        city_map = load_map(scenes.root, scene.map_location)
        spent["context"].append(timed(lambda s=scene, m=city_map: build_context(s, m), 1))
        for count in counts:
            plans = disturbed(context, count)
            if traffic == "non_reactive":
                span = timed(lambda c=context, p=plans: score([c], p))
            else:
                start = traffic_start(scenes, context)
                span = timed(lambda c=context, s=start, p=plans: score_reactive([c], [s], p))
            spent[f"{count} a scene"].append(span / count)
    return spent


def report(scenes: SceneSet, split: str, devkit: Devkit | None) -> str:
    """The benchmark's tables as Markdown."""
    scene = scenes[0]
    began_s = time.process_time()
    first = build_context(scene, load_map(scenes.root, scene.map_location))
    score([first], disturbed(first, 1))
    first_s = time.process_time() - began_s
    # Loads every kernel before anything is timed.
    score_reactive([first], [traffic_start(scenes, first)], disturbed(first, 2))
    parts(first)
    measured = measure(scenes)
    many = measured.plan_s[:, PLANS_PER_SCENE.index(MANY)]
    driving = ("reference poses", "tracker and bicycle", "footprints")
    floor_s = sum(np.median(measured.parts_s[name]) for name in driving)
    lines = [
        f"{len(scenes)} scenes, commit {checkout_commit()}, {platform.machine()}, Python {platform.python_version()}, "
        f"NumPy {np.__version__}. Load average at the start {os.getloadavg()[0]:.1f}. First context and score, kernels "
        f"loaded or compiled: {first_s:.1f} s.",
        "",
        "| work, one core | median | 90 % |",
        "|---|---:|---:|",
        row("scoring context from log and map, ms a scene", spread(measured.context_s, 1e3)),
        row("plain twin (`irlvla.scoring.reference`), ms a plan", spread(measured.plain_s, 1e3)),
        *(
            row(f"reactive traffic, {count} plans a scene, ms a plan", spread(measured.reactive_s[:, column], 1e3, 2))
            for column, count in enumerate(REACTIVE_PLANS_PER_SCENE)
        ),
        "",
        "| plans a scene | us a plan, median | 90 % | plain twin / ours | peak memory a plan, kB |",
        "|---:|---:|---:|---:|---:|",
    ]
    for column, count in enumerate(PLANS_PER_SCENE):
        spent = measured.plan_s[:, column]
        ratio = np.median(np.array(measured.plain_s) / spent)
        memory_kb = np.median(measured.memory_bytes[:, column]) / 1e3
        lines.append(row(count, spread(spent, 1e6, 0), f"{ratio:,.0f} x", f"{memory_kb:.1f}"))
    lines += ["", f"| step, {MANY} plans a scene | us a plan, median | 90 % |", "|---|---:|---:|"]
    lines += [row(name, spread(spent, 1e6, 2)) for name, spent in measured.parts_s.items()]
    lines += [
        "",
        f"Driving a plan (reference, tracker, bicycle, body) is arithmetic that no shortcut saves: "
        f"{1e6 * floor_s:.1f} us. Scoring costs {np.median(many) / floor_s:.1f} times that floor.",
        *throughput(scenes),
    ]
    if devkit is not None:
        lines += against_devkit(scenes, split, devkit)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What scoring costs.")
    parser.add_argument("--data", type=Path, required=True, help="data root")
    parser.add_argument("--split", default="test")
    parser.add_argument("--scenes", type=int, default=40, help="scenes to measure, spread over the split")
    parser.add_argument(
        "--devkit",
        nargs=3,
        type=Path,
        metavar=("PYTHON", "NAVSIM", "NUPLAN_DEVKIT"),
        help="score with the official devkit too: its interpreter and the folders of both repositories",
    )
    options = parser.parse_args()
    found = open_scenes(options.data, options.split, num_future_frames=8)
    picked = np.unique(np.linspace(0, len(found) - 1, options.scenes).astype(int))
    tokens = found.tokens
    scenes = found.subset(tokens[index] for index in picked)
    print(report(scenes, options.split, Devkit(*options.devkit) if options.devkit else None))


if __name__ == "__main__":
    main()
