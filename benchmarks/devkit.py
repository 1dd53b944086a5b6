"""The official devkit's figures and times for a file of plans, for `scoring.py --devkit`; run by the devkit's Python.

    PYTHONPATH=NAVSIM:NUPLAN_DEVKIT python benchmarks/devkit.py ROOT SPLIT PLANS.npz OUT.json [TRAFFIC]

Uses navsim v2.2 as it is. Each scene gets a metric-cache processor of its own, since the official one remembers objects
from scene to scene, and is never scored in two kinds of traffic, since scoring changes the metric cache.
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np

SUB_SCORES = (
    "no_at_fault_collisions",
    "drivable_area_compliance",
    "driving_direction_compliance",
    "traffic_light_compliance",
    "ego_progress",
    "time_to_collision_within_bound",
    "lane_keeping",
    "history_comfort",
)


def main() -> None:
    root, split, plans_file, out = sys.argv[1:5]
    traffic = sys.argv[5] if len(sys.argv) > 5 else "non_reactive"
    warnings.simplefilter("ignore")
    os.environ["NUPLAN_MAPS_ROOT"] = str(Path(root) / "maps")
    # The devkit is no package that pip finds: it is imported where it is wanted.
    from navsim.common.dataclasses import Scene, SceneFilter, SensorConfig, Trajectory
    from navsim.common.dataloader import SceneLoader
    from navsim.evaluate.pdm_score import pdm_score
    from navsim.planning.metric_caching.metric_cache_processor import MetricCacheProcessor
    from navsim.planning.scenario_builder.navsim_scenario import NavSimScenario
    from navsim.planning.simulation.observation.navsim_idm_agents import NavsimIDMAgents
    from navsim.planning.simulation.planner.pdm_planner.scoring.pdm_scorer import PDMScorer, PDMScorerConfig
    from navsim.planning.simulation.planner.pdm_planner.simulation.pdm_simulator import PDMSimulator
    from navsim.traffic_agents_policies.log_replay_traffic_agents import LogReplayTrafficAgents
    from navsim.traffic_agents_policies.navsim_IDM_traffic_agents import NavsimIDMTrafficAgents
    from nuplan.planning.simulation.trajectory.trajectory_sampling import TrajectorySampling

    sampling = TrajectorySampling(time_horizon=4, interval_length=0.1)
    simulator = PDMSimulator(sampling)
    if traffic == "non_reactive":
        policy = LogReplayTrafficAgents(sampling)
    else:
        # The values of navsim_IDM_traffic_agents.yaml.
        drivers = NavsimIDMAgents(
            target_velocity=10,
            min_gap_to_lead_agent=1.0,
            headway_time=1.5,
            accel_max=1.0,
            decel_max=2.0,
            open_loop_detections_types=[],
            minimum_path_length=20,
            planned_trajectory_samples=None,
            planned_trajectory_sample_interval=None,
            radius=100,
            add_open_loop_parked_vehicles=True,
            idm_snap_threshold=3.0,
        )
        policy = NavsimIDMTrafficAgents(sampling, drivers)
    plans = np.load(plans_file)
    rows_of: dict = {}
    for row, token in enumerate(plans["token"]):
        rows_of.setdefault(str(token), []).append(row)
    scene_filter = SceneFilter(
        num_history_frames=4, num_future_frames=8, frame_interval=1, has_route=True, tokens=list(rows_of)
    )
    without_sensors = SensorConfig.build_no_sensors()
    loader = SceneLoader(
        data_path=Path(root) / "navsim_logs" / split,
        original_sensor_path=None,
        scene_filter=scene_filter,
        sensor_config=without_sensors,
    )
    scores = np.full((len(plans["token"]), len(SUB_SCORES)), np.nan)
    context_s, plan_s = [], []
    for token in loader.tokens:
        scene = Scene.from_scene_dict_list(
            loader.scene_frames_dicts[token],
            None,
            num_history_frames=4,
            num_future_frames=8,
            sensor_config=without_sensors,
        )
        processor = MetricCacheProcessor(str(Path(out).parent), True, sampling)
        scenario = NavSimScenario(scene, map_root=str(Path(root) / "maps"), map_version="nuplan-maps-v1.0")
        began = time.process_time()
        cache = processor.compute_metric_cache(scenario)
        context_s.append(time.process_time() - began)
        for row in rows_of[token]:
            poses = plans["poses"][row]
            plan = Trajectory(poses, TrajectorySampling(num_poses=len(poses), interval_length=4 / len(poses)))
            began = time.process_time()
            scorer = PDMScorer(sampling, PDMScorerConfig(human_penalty_filter=True))
            result, _ = pdm_score(cache, plan, sampling, simulator, scorer, policy)
            plan_s.append(time.process_time() - began)
            scores[row] = [float(result.iloc[0][name]) for name in SUB_SCORES]
    Path(out).write_text(
        json.dumps({"context_s": context_s, "plan_s": plan_s, "scores": scores.tolist()}), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
