"""The main job on the embedded world: world, imitation, reward world model, PPO, and the table that compares them.

Each step is one of the other sub-commands, run with the recipe's settings; a step that is finished is skipped, an
interrupted one goes on, so the same command can be given again after a kill.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from irlvla.cli.commands import EvaluateOptions, console, evaluate_drivers, stage_progress
from irlvla.cli.terminal import parse, progress_bar


@dataclass(frozen=True)
class DemoOptions:
    """How the demo runs."""

    out: Path = Path("runs/demo")
    """Folder of everything the demo writes: the world, the runs, the table and the page."""
    quick: bool = False
    """The same path in a few minutes, too short to learn anything."""
    seeds: int = 1
    """Training runs of all three stages, with seeds 0, 1, …; the world is built once."""
    workers: int = 2
    """Processes that build the world and score plans."""


MINUTES = {
    "tiny": {"world": 3.0, "imitation": 8.0, "reward": 4.0, "ppo": 2.5, "evaluate": 1.0},
    "quick": {"world": 0.4, "imitation": 0.6, "reward": 0.3, "ppo": 0.2, "evaluate": 0.3},
}
"""Expected wall time of each step on 2 cores without GPU, for the announcement."""


def demo(arguments: Sequence[str]) -> None:
    """`irlvla demo --out RUN [--quick] [--seeds N]`"""
    run_demo(parse(DemoOptions, arguments, "demo"))


def run_demo(options: DemoOptions) -> None:
    """Run all steps; see the module's first lines.

    Raises:
        RunError: the folder holds a demo of other settings, or the disk is full.
    """
    name = "quick" if options.quick else "tiny"
    minutes = MINUTES[name]
    seeds = range(options.seeds)
    steps = ["world", *[stage for _ in seeds for stage in ("imitation", "reward", "ppo")], "evaluate"]
    console.print(f"[bold]irlvla demo[/bold], recipe {name}: about {sum(minutes[s] for s in steps):.0f} min on 2 cores")
    for number, step in enumerate(steps, start=1):
        console.print(f"  {number}. {step:<10} about {minutes[step]:.1f} min", highlight=False)

    from irlvla.recipes import load_recipe
    from irlvla.stages.imitation import train_imitation
    from irlvla.stages.ppo import train_ppo
    from irlvla.stages.reward import train_reward
    from irlvla.stages.scenes import DataConfig
    from irlvla.world.build import build_world
    from irlvla.world.presets import PRESETS

    recipe = load_recipe(name)
    root = options.out / "world"
    data = DataConfig(root)
    with progress_bar(console) as show:
        announce = _timed(console.print)
        announce("world")
        build_world(
            PRESETS[recipe.world],
            root,
            workers=options.workers,
            on_progress=show,
        )
    for seed in seeds:
        runs = {stage: options.out / f"{stage}-seed{seed}" for stage in ("imitation", "reward", "ppo")}
        with progress_bar(console) as show:
            progress = stage_progress(show)
            announce("imitation")
            train_imitation(recipe.model, recipe.imitation, data, runs["imitation"], seed=seed, on_progress=progress)
            announce("reward")
            train_reward(runs["imitation"], recipe.reward, data, runs["reward"], seed=seed, on_progress=progress)
            announce("ppo")
            train_ppo(runs["imitation"], runs["reward"], recipe.ppo, data, runs["ppo"], seed=seed, on_progress=progress)
    announce("evaluate")
    first = {stage: options.out / f"{stage}-seed0" for stage in ("imitation", "reward", "ppo")}
    evaluate_drivers(
        EvaluateOptions(
            drivers=tuple(options.out / f"{stage}-seed{seed}" for stage in ("imitation", "ppo") for seed in seeds),
            data=root,
            out=options.out,
            reward=first["reward"],
            best_of=recipe.best_of,
            workers=options.workers,
        ),
        training_runs=dict(first),
    )
    announce(None)


def _timed(print_line: Callable[..., None]) -> Callable[[str | None], None]:
    """Announce each step, and say of the one before how long it took."""
    started = time.monotonic()
    current: str | None = None

    def announce(name: str | None) -> None:
        nonlocal started, current
        now = time.monotonic()
        if current is not None:
            print_line(f"  {current}: {(now - started) / 60:.1f} min", highlight=False)
        started, current = now, name
        if name is not None:
            print_line(f"[bold]{name}[/bold]")

    return announce
