import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from irlvla.errors import RunError
from irlvla.files import disk_space
from irlvla.stages.run import RunFolder, load_run_config, scene_batch, seed_step, write_atomically


@dataclass(frozen=True)
class Settings:
    learning_rate: float = 0.1
    checkpoint_every: int = 5


def open_run(path: Path, settings: Settings | None = None, seed: int = 0) -> RunFolder:
    return RunFolder(path, "imitation", {"imitation": settings or Settings()}, seed)


def test_a_folder_with_another_configuration_is_refused_by_name(tmp_path: Path) -> None:
    open_run(tmp_path / "run")
    with pytest.raises(RunError, match=r"config\.imitation\.learning_rate is 0\.1 there and 0\.2 here.*--out"):
        open_run(tmp_path / "run", replace(Settings(), learning_rate=0.2))


def test_a_folder_with_another_seed_is_refused(tmp_path: Path) -> None:
    open_run(tmp_path / "run")
    with pytest.raises(RunError, match="seed is 0 there and 1 here"):
        open_run(tmp_path / "run", seed=1)


def test_a_setting_that_cannot_change_the_weights_may_differ_on_resume(tmp_path: Path) -> None:
    open_run(tmp_path / "run")
    open_run(tmp_path / "run", replace(Settings(), checkpoint_every=1))


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(RunError, match="not a run folder"):
        open_run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_config_records_seed_versions_and_commit(tmp_path: Path) -> None:
    open_run(tmp_path / "run", seed=7)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["seed"] == 7
    assert config["config"]["imitation"]["learning_rate"] == 0.1
    assert {"python", "torch", "numpy"} <= set(config["versions"])
    assert "commit" in config


def test_lines_after_the_resumed_step_are_dropped_so_that_no_step_appears_twice(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")
    for step in (1, 2, 3):
        run.log(step, {"loss": float(step)})
        if step == 2:
            run.save_checkpoint(2, {"model": {"w": torch.ones(1)}})
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # The kill came here.
    resumed = open_run(tmp_path / "run")
    checkpoint = resumed.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.step == 2
    resumed.log(3, {"loss": 30.0})
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_a_run_killed_before_its_first_checkpoint_starts_with_empty_metrics(tmp_path: Path) -> None:
    open_run(tmp_path / "run").log(1, {"loss": 1.0})
    assert open_run(tmp_path / "run").load_checkpoint() is None
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""


def test_checkpoint_returns_what_was_saved_even_for_tied_weights(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")
    tied = torch.randn(3, 4)
    run.save_checkpoint(
        5, {"model": {"embed": tied, "head": tied, "view": tied.T}, "optimizer": {"0/step": tied[0, 0]}}, best=0.5
    )
    checkpoint = open_run(tmp_path / "run").load_checkpoint()
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.counters) == (5, {"best": 0.5})
    torch.testing.assert_close(checkpoint.part("model")["head"], tied, rtol=0, atol=0)
    torch.testing.assert_close(checkpoint.part("model")["view"], tied.T, rtol=0, atol=0)
    assert checkpoint.part("optimizer")["0/step"].shape == ()


def test_a_damaged_checkpoint_names_the_file_and_the_cure(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")
    run.save_checkpoint(5, {"model": {"w": torch.ones(100)}})
    path = tmp_path / "run" / "checkpoint" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(RunError, match=r"state\.safetensors is damaged.*delete"):
        open_run(tmp_path / "run").load_checkpoint()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text("old")

    def write_half(beside: Path) -> None:
        beside.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write_half)
    assert path.read_text() == "old"


def test_finishing_moves_the_model_into_place_and_drops_the_resume_state(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")
    run.save_checkpoint(1, {"model": {"w": torch.ones(1)}})

    def save(folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")

    run.finish(save, steps=1)
    assert open_run(tmp_path / "run").finished
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 1
    assert load_run_config(tmp_path / "run", "imitation")["seed"] == 0
    with pytest.raises(RunError, match="stage 'imitation'; a run of stage 'reward' is needed"):
        load_run_config(tmp_path / "run", "reward")


def test_an_unfinished_earlier_stage_is_named(tmp_path: Path) -> None:
    open_run(tmp_path / "run")
    with pytest.raises(RunError, match="not finished"):
        load_run_config(tmp_path / "run", "imitation")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs a device that is always full")
def test_a_full_disk_says_what_to_do_and_that_the_run_resumes(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is full: free some space.*what is finished is kept"), disk_space(tmp_path):
        Path("/dev/full").write_text("x")


def test_a_checkpoint_that_does_not_fit_the_disk_keeps_the_older_one(tmp_path: Path) -> None:
    """The operating system's limit on file size stands in for a full disk: the same error path inside safetensors."""
    program = f"""
        import resource, signal, torch
        from pathlib import Path
        from irlvla.errors import RunError
        from irlvla.stages.run import RunFolder
        run = RunFolder(Path({str(tmp_path / "run")!r}), "ppo", {{}}, 0)
        run.save_checkpoint(1, {{"model": {{"w": torch.ones(10)}}}})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            run.save_checkpoint(2, {{"model": {{"w": torch.ones(10_000)}}}})
        except RunError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert "free some space" in done.stdout
    checkpoint = RunFolder(tmp_path / "run", "ppo", {}, 0).load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.step == 1


def test_errors_other_than_a_full_disk_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_space(tmp_path):
        os.stat(tmp_path / "nothing")


def test_every_epoch_visits_every_scene_once_even_across_batch_borders() -> None:
    rows = [row for step in range(15) for row in scene_batch(3, step, 4, 10)]
    for epoch in range(6):
        assert sorted(rows[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert rows[:10] != rows[10:20]


def test_batches_do_not_depend_on_where_training_started() -> None:
    assert scene_batch(3, 12, 4, 10) == [scene_batch(3, step, 4, 10) for step in range(13)][12]
    assert scene_batch(3, 12, 4, 10) != scene_batch(4, 12, 4, 10)


def test_a_step_draws_the_same_noise_whatever_was_drawn_before() -> None:
    seed_step(1, 5)
    first = torch.randn(3), np.random.rand()  # noqa: NPY002
    torch.randn(100)
    seed_step(1, 5)
    again = torch.randn(3), np.random.rand()  # noqa: NPY002
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
    seed_step(1, 5, "another process")
    assert not torch.equal(first[0], torch.randn(3))
