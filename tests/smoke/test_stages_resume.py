"""Every stage trains, is killed without warning, resumes, and ends with the very weights of a run left in peace."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from irlvla.errors import RunError
from irlvla.model.config import ModelConfig
from irlvla.model.driving_vla import DrivingVLA
from irlvla.model.reward import RewardWorldModel
from irlvla.stages.imitation import ImitationConfig, train_imitation
from irlvla.stages.ppo import PPOConfig, train_ppo
from irlvla.stages.proposals import PLAN_KINDS
from irlvla.stages.refresh import RefreshConfig
from irlvla.stages.reward import RewardConfig, train_reward
from irlvla.stages.scenes import DataConfig
from irlvla.stages.scored_plans import CollectConfig, load_scored_plans
from irlvla.stages.watch import WatchConfig

pytestmark = pytest.mark.slow

MODEL = ModelConfig(
    cameras=("CAM_F0",),
    image_height=32,
    image_width=64,
    image_channels=16,
    d_model=32,
    n_heads=2,
    bev_cells=16,
    bev_tokens=4,
    bev_channels=8,
    n_object_queries=4,
    n_map_queries=4,
    language_width=32,
    language_layers=1,
    language_heads=2,
    vocabulary=300,
    n_meta_tokens=2,
    planner_layers=1,
    denoising_steps=4,
    reward_layers=1,
    reward_heads=3,
)
IMITATION = ImitationConfig(
    steps=6, batch_size=2, warm_up_steps=2, check_every=3, check_scenes=2, log_every=1, checkpoint_every=2, workers=0
)
REWARD = RewardConfig(
    collect=CollectConfig(
        anchors=4,
        anchors_per_scene=2,
        perturbations_per_kind=1,
        policy_plans=2,
        reposed_starts=2,
        plans_per_reposed_start=5,
        workers=0,
    ),
    steps=6,
    scenes_per_step=2,
    plans_per_scene=4,
    reposed_share=0.5,
    warm_up_steps=2,
    max_entropy_weight=0.1,
    log_every=1,
    checkpoint_every=2,
)
PPO = PPOConfig(
    updates=6,
    scenes_per_update=2,
    plans_per_scene=3,
    baseline="critic",
    trained_steps=2,
    watch=WatchConfig(every=2, scenes=2, plans=3, patience=100),
    refresh=RefreshConfig(every=3, scenes=2, plans_per_scene=2, steps=2),
    log_every=1,
    checkpoint_every=2,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums split over threads round differently; bit-identity is promised for equal thread counts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def runs(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three stages, uninterrupted."""
    out = tmp_path_factory.mktemp("runs")
    run_stage("imitation", tiny_root, out, out / "imitation")
    run_stage("reward", tiny_root, out, out / "reward")
    run_stage("ppo", tiny_root, out, out / "ppo")
    return out


def run_stage(stage: str, root: Path, runs: Path, out: Path) -> None:
    data = DataConfig(root, "test")
    if stage == "imitation":
        train_imitation(MODEL, IMITATION, data, out, seed=1)
    elif stage == "reward":
        train_reward(runs / "imitation", REWARD, data, out, seed=1)
    else:
        train_ppo(runs / "imitation", runs / "reward", PPO, data, out, seed=1)


def start_and_kill(stage: str, root: Path, runs: Path, out: Path, after_lines: int) -> None:
    """Start a stage in a process of its own and kill it once it has logged so many steps."""
    program = f"""
        import sys
        from pathlib import Path
        import torch
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_stages_resume import run_stage
        torch.set_num_threads(1)
        run_stage({stage!r}, Path({str(root)!r}), Path({str(runs)!r}), Path({str(out)!r}))
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            log = out / "metrics.jsonl"
            if log.is_file() and log.read_bytes().count(b"\n") >= after_lines:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.002)
        error = process.stderr.read().decode() if process.stderr else ""
        assert process.wait() == -signal.SIGKILL, f"{stage} ended before it could be killed:\n{error}"


@pytest.mark.parametrize("stage", ["imitation", "reward", "ppo"])
def test_killed_and_resumed_run_ends_with_bit_identical_weights(
    stage: str, tiny_root: Path, runs: Path, tmp_path: Path
) -> None:
    out = tmp_path / stage
    start_and_kill(stage, tiny_root, runs, out, after_lines=random.randint(1, 5))
    assert not (out / "model").exists()
    run_stage(stage, tiny_root, runs, out)

    undisturbed = load_file(runs / stage / "model" / "model.safetensors")
    resumed = load_file(out / "model" / "model.safetensors")
    assert undisturbed.keys() == resumed.keys()
    for name, weights in undisturbed.items():
        assert torch.equal(weights, resumed[name]), name

    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (runs / stage / "metrics.jsonl").read_text().splitlines()]
    assert lines == expected


def test_training_changes_the_weights_and_only_the_planner_in_ppo(runs: Path) -> None:
    before = load_file(runs / "imitation" / "model" / "model.safetensors")
    after = load_file(runs / "ppo" / "model" / "model.safetensors")
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    # PPO keeps the best checked weights; in six updates these may be the first.
    assert changed <= {"planner"}
    ratios = [json.loads(line)["ratio"] for line in (runs / "ppo" / "metrics.jsonl").read_text().splitlines()[:6]]
    assert all(ratio != 1.0 for ratio in ratios)


def test_saved_models_load_and_plan(runs: Path) -> None:
    assert DrivingVLA.from_pretrained(runs / "ppo" / "model").config == MODEL
    for folder in (runs / "reward" / "model", runs / "ppo" / "reward_model"):
        assert RewardWorldModel.from_pretrained(folder).config == replace(MODEL, dropout=REWARD.dropout)


def test_a_finished_run_is_left_alone(tiny_root: Path, runs: Path) -> None:
    before = (runs / "imitation" / "summary.json").stat().st_mtime_ns
    run_stage("imitation", tiny_root, runs, runs / "imitation")
    assert (runs / "imitation" / "summary.json").stat().st_mtime_ns == before


def test_reward_report_covers_unseen_logs_and_unseen_kinds(runs: Path) -> None:
    report = json.loads((runs / "reward" / "report.json").read_text())
    for group in ("all_kinds", "kinds_never_trained_on", "policy_plans"):
        figures = report["held_out_logs"][group]
        assert figures["best_of_n_regret"] >= 0
        assert set(figures["sub_scores"]) >= {"no_at_fault_collisions", "time_to_collision_within_bound"}


def test_plans_from_reposed_starts_are_scored_learned_from_and_reported(runs: Path) -> None:
    plans = load_scored_plans(runs / "reward")
    columns = plans.kinds[0] == PLAN_KINDS.index("reposed")
    assert columns.sum() == 10
    assert plans.valid[:, columns].any()
    assert plans.valid[:, ~columns].all()
    moved = plans.plan_starts[:, columns][plans.valid[:, columns]]
    assert (np.abs(moved[:, :3]).sum(1) > 0).all()
    # All poses are in the logged ego frame: a plan's first half second starts where the plan does.
    first_step_m = np.linalg.norm((plans.poses[:, :, 0, :2] - plans.plan_starts[..., :2])[plans.valid], axis=-1)
    assert np.median(first_step_m) < 10
    assert json.loads((runs / "reward" / "report.json").read_text())["training_logs"]["by_kind"]["reposed"]["plans"] > 0


@pytest.mark.parametrize("stage", ["reward", "ppo"])
def test_later_stages_log_to_tensorboard_when_asked(stage: str, tiny_root: Path, runs: Path, tmp_path: Path) -> None:
    data, out = DataConfig(tiny_root, "test"), tmp_path / stage
    if stage == "reward":
        train_reward(runs / "imitation", replace(REWARD, steps=1, trackers=("tensorboard",)), data, out, seed=1)
    else:
        config = replace(PPO, updates=1, trackers=("tensorboard",))
        train_ppo(runs / "imitation", runs / "reward", config, data, out, seed=1)
    assert any(path.stat().st_size > 0 for path in out.rglob("events.out.tfevents*"))


def test_ppo_on_the_simulator_itself_needs_no_reward_run(tiny_root: Path, runs: Path, tmp_path: Path) -> None:
    config = PPOConfig(
        updates=1,
        scenes_per_update=2,
        plans_per_scene=2,
        reward="simulator",
        algorithm="grpo",
        watch=WatchConfig(every=1, scenes=2, plans=2),
    )
    train_ppo(runs / "imitation", None, config, DataConfig(tiny_root, "test"), tmp_path / "oracle")
    check = json.loads((tmp_path / "oracle" / "summary.json").read_text())["checks"][0]
    assert 0 <= check["true_epdms"] <= 1


def test_a_reward_run_on_other_scenes_is_refused(tiny_root: Path, runs: Path, tmp_path: Path) -> None:
    data = DataConfig(tiny_root, "test", max_scenes=3)
    with pytest.raises(RunError, match="max_scenes differ"):
        train_ppo(runs / "imitation", runs / "reward", PPO, data, tmp_path / "ppo")


def test_two_processes_share_a_batch_and_write_one_log(tiny_root: Path, tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text(
        textwrap.dedent(f"""
            import sys
            from pathlib import Path
            import torch
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from test_stages_resume import run_stage
            torch.set_num_threads(1)
            run_stage("imitation", Path({str(tiny_root)!r}), Path(), Path({str(tmp_path / "run")!r}))
        """)
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(program)]
    done = subprocess.run(torchrun, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert DrivingVLA.from_pretrained(tmp_path / "run" / "model").config == MODEL
