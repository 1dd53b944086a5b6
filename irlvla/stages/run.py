"""A run folder: what a training stage leaves on disk, and how it goes on after any interruption.

    RUN/config.json                     resolved configuration, seed, versions, commit; written first
    RUN/metrics.jsonl                   one object a line, one line a logged step
    RUN/checkpoint/state.safetensors    the latest state to resume from, its step and counters in the file's header
    RUN/model/                          final weights, moved into place last: where it exists, the run is finished
    RUN/summary.json                    steps, wall time, how often the run was resumed

A run may be killed at any moment. Each file is written beside its place, flushed to the disk and moved there, so a
reader finds the old or the new one, never half of one. What a step computes depends on (weights, seed, step) alone, so
a resumed run repeats the lost steps exactly.
"""

import hashlib
import json
import platform
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from irlvla import files
from irlvla.checkout import checkout_commit
from irlvla.errors import RunError
from irlvla.files import disk_space, flush_to_disk

FREE_TO_CHANGE = frozenset({"root", "workers", "trackers", "checkpoint_every", "log_every"})
"""Settings that cannot change the weights: a run may be resumed with others, or with its data moved elsewhere."""

VERSIONED_PACKAGES = ("irlvla", "torch", "transformers", "accelerate", "safetensors", "numpy", "scipy", "numba")


@dataclass(frozen=True)
class Progress:
    """How far a stage has come; handed to `on_progress` for whoever draws it."""

    stage: str
    """What is being done: "imitation", "reward: collect plans", "ppo" …"""
    step: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]


def no_progress(progress: Progress) -> None:
    """The default `on_progress`: nobody is watching."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`irlvla.files.write_atomically` for callables that may write with safetensors.

    Raises:
        RunError: the disk is full.
    """

    def write_naming_the_cause(beside: Path) -> None:
        try:
            write(beside)
        except SafetensorError as error:
            # safetensors writes from Rust: the number is only in the text.
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number.group(1)), str(error)) from error

    files.write_atomically(path, write_naming_the_cause)


def write_json(path: Path, value: Any) -> None:
    """Write a small JSON file atomically."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_atomically(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def seed_step(seed: int, step: int, stream: str = "") -> None:
    """Make all randomness of one step a pure function of (seed, step, stream), so that resuming is exact.

    Seeds Python, NumPy's global generator and torch on every device.

    Args:
        seed: Seed of the run.
        step: Step about to be computed.
        stream: Tells apart uses that share a step number, for instance two processes or two phases.
    """
    words = np.random.SeedSequence([seed, step, *stream.encode()]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002 - libraries we call may use the global generator.
    torch.manual_seed(int(words[2]))


def scene_batch(seed: int, step: int, batch_size: int, num_scenes: int) -> list[int]:
    """Scenes of one training step: each epoch is a fresh permutation, a batch may span two epochs.

    Returns:
        `batch_size` indices below `num_scenes`; a pure function of the arguments.
    Example:
        >>> sorted(scene_batch(0, 0, 2, 4) + scene_batch(0, 1, 2, 4))
        [0, 1, 2, 3]
        >>> scene_batch(0, 0, 3, 1)
        [0, 0, 0]
    """
    indices: list[int] = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, place = divmod(position, num_scenes)
        indices.append(int(_epoch_order(seed, epoch, num_scenes)[place]))
    return indices


_orders: dict[tuple[int, int, int], np.ndarray] = {}


def _epoch_order(seed: int, epoch: int, num_scenes: int) -> np.ndarray:
    key = (seed, epoch, num_scenes)
    if key not in _orders:
        if len(_orders) > 8:
            _orders.clear()
        _orders[key] = np.random.default_rng([seed, epoch]).permutation(num_scenes)
    return _orders[key]


@dataclass(frozen=True)
class Checkpoint:
    """A state to resume from."""

    step: int
    """Steps completed."""
    tensors: dict[str, Tensor]
    """Names are "<part>/<name>": weights, optimizer moments, averages."""
    counters: dict[str, Any]
    """What else the loop carries from step to step; JSON values."""

    def part(self, name: str) -> dict[str, Tensor]:
        """Tensors stored under one part, without its prefix."""
        prefix = f"{name}/"
        return {key[len(prefix) :]: value for key, value in self.tensors.items() if key.startswith(prefix)}


class RunFolder:
    """One run on disk: configuration, metrics, resume state, final weights.

    Args:
        path: The folder; created, or taken up again where it holds the same run.
        stage: "imitation", "reward" or "ppo".
        config: Dataclasses by name, as resolved.
        seed: Seed of the run.
    Raises:
        RunError: the folder holds another run, or something that is not a run.
    """

    def __init__(self, path: Path, stage: str, config: Mapping[str, Any], seed: int) -> None:
        self.path = path
        self.stage = stage
        self._started = time.monotonic()
        self._earlier_s = 0.0
        self._sessions = 1
        self._trackers: Accelerator | None = None
        wanted = {"stage": stage, "seed": seed, "config": plain(config)}
        config_path = path / "config.json"
        if config_path.is_file():
            self._refuse_another_run(_load_json(config_path), wanted)
        elif path.exists() and any(p for p in path.iterdir() if not p.name.startswith(".")):
            raise RunError(f"{path} is not a run folder and not empty: give another one with --out")
        else:
            write_json(
                config_path, {**wanted, "versions": _versions(), "commit": checkout_commit(), "start": time.time()}
            )

    @property
    def model_path(self) -> Path:
        return self.path / "model"

    @property
    def finished(self) -> bool:
        return self.model_path.is_dir()

    @property
    def wall_s(self) -> float:
        """Seconds spent on this run, over all its sessions."""
        return self._earlier_s + time.monotonic() - self._started

    def start_trackers(self, names: Sequence[str], accelerator: Accelerator | None = None) -> None:
        """Log to TensorBoard or W&B as well.

        Args:
            names: Accelerate's trackers; none does nothing.
            accelerator: One that was made with these trackers; made here for a stage that needs it for nothing else.
        """
        if not names:
            return
        if accelerator is None:
            accelerator = Accelerator(
                cpu=not torch.cuda.is_available(), log_with=list(names), project_dir=str(self.path)
            )
        accelerator.init_trackers(f"irlvla-{self.stage}")
        self._trackers = accelerator

    def log(self, step: int, metrics: Mapping[str, float], **labels: str) -> None:
        """Append one line to metrics.jsonl. `step` is the number of steps completed."""
        line = json.dumps({"step": step, **labels, **{k: _json_number(v) for k, v in metrics.items()}})
        with disk_space(self.path), (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self._trackers is not None:
            self._trackers.log(dict(metrics), step=step)

    def save_checkpoint(self, step: int, parts: Mapping[str, Mapping[str, Tensor]], **counters: Any) -> None:
        """Replace the resume state.

        Args:
            step: Steps completed.
            parts: Tensors by part, for instance {"model": …, "optimizer": …}.
            counters: JSON values the loop needs to go on.
        """
        if (self.path / "metrics.jsonl").exists():
            flush_to_disk(self.path / "metrics.jsonl")
        tensors = _unshared({f"{part}/{key}": value for part, named in parts.items() for key, value in named.items()})
        header = {
            "irlvla": json.dumps(
                {"step": step, "wall_s": self.wall_s, "sessions": self._sessions, "counters": counters}
            )
        }
        write_atomically(
            self.path / "checkpoint" / "state.safetensors", lambda beside: save_file(tensors, beside, metadata=header)
        )

    def load_checkpoint(self) -> Checkpoint | None:
        """The latest resume state, or None for a fresh run; metrics logged after it are dropped, so none doubles.

        Raises:
            RunError: the file is damaged.
        """
        path = self.path / "checkpoint" / "state.safetensors"
        if not path.is_file():
            self._truncate_metrics(0)
            return None
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads(file.metadata()["irlvla"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping.
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{path} is damaged ({error}): delete its folder to start over, or restore it from a backup"
            ) from error
        self._earlier_s, self._sessions = header["wall_s"], header["sessions"] + 1
        self._truncate_metrics(header["step"])
        return Checkpoint(header["step"], tensors, header["counters"])

    def finish(self, save_model: Callable[[Path], object], steps: int, **facts: Any) -> None:
        """Write summary and final weights; the run then counts as finished, and its resume state is removed."""
        write_json(
            self.path / "summary.json",
            {"steps": steps, "wall_s": self.wall_s, "sessions": self._sessions, **plain(facts)},
        )
        write_atomically(self.model_path, save_model)
        shutil.rmtree(self.path / "checkpoint", ignore_errors=True)
        if self._trackers is not None:
            self._trackers.end_training()

    def _truncate_metrics(self, step: int) -> None:
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # The kill cut this line short.
                break
            if entry["step"] <= step:
                kept.append(line + "\n")
        write_atomically(path, lambda beside: beside.write_text("".join(kept), encoding="utf-8"))

    def _refuse_another_run(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        differences = list(_differences(found, json.loads(json.dumps(wanted))))
        if differences:
            raise RunError(
                f"{self.path} holds another run: {'; '.join(differences[:5])}"
                f"{f'; and {len(differences) - 5} more' if len(differences) > 5 else ''}. "
                "Give another folder with --out, or the old settings to go on with that run, or delete the folder"
            )


def load_run_config(run: Path, stage: str) -> dict[str, Any]:
    """Configuration of a finished earlier stage.

    Raises:
        RunError: `run` is no run of that stage, or is not finished.
    """
    path = run / "config.json"
    if not path.is_file():
        raise RunError(f"{run} is not a run folder: run `irlvla train {stage} … --out {run}` first")
    config = _load_json(path)
    if config["stage"] != stage:
        raise RunError(f"{run} is a run of stage {config['stage']!r}; a run of stage {stage!r} is needed here")
    if not (run / "model").is_dir():
        raise RunError(f"{run} is not finished: give `irlvla train {stage}` with the same options to complete it")
    return config


def model_digest(run: Path) -> str:
    """What tells a finished run's weights from any others; a later stage records it as its own setting."""
    with (run / "model" / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_key(*parts: object) -> str:
    """Name of a cache that depends on nothing but these parts (JSON values)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """Dataclasses, paths and tuples as JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    return value


def _load_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise RunError(f"{path} is not JSON ({error}): delete the run folder, or restore the file") from error


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in wanted:
            if key in FREE_TO_CHANGE:
                continue
            dotted = f"{name}.{key}" if name else key
            if key not in found:
                yield f"{dotted} is not recorded there"
            else:
                yield from _differences(found[key], wanted[key], dotted)
    elif found != wanted:
        yield f"{name} is {found!r} there and {wanted!r} here"


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses two names for one memory (tied weights), and views into a larger one.
    seen: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if pointer in seen else tensor
        seen.add(pointer)
    return own


def _json_number(value: float) -> float | None:
    value = float(value)
    return value if np.isfinite(value) else None


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in VERSIONED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
