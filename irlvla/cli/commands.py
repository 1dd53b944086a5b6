"""The sub-commands: each parses its options, calls one function of the package and prints what came of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from irlvla.cli.terminal import metrics_text, parse, progress_bar, take_name
from irlvla.errors import ConfigError, DataError

if TYPE_CHECKING:
    from irlvla.stages.run import OnProgress, Progress
    from irlvla.types import Policy

console = Console(soft_wrap=True)


@dataclass(frozen=True)
class WorldBuildOptions:
    """Where and how an embedded world is built."""

    out: Path
    """Folder of the data root; new, empty, or an interrupted build of the same world."""
    seed: int = 0
    """Decides networks, traffic, appearance and which drives become logs."""
    workers: int = 2
    """Processes."""
    osm: tuple[Path, ...] = ()
    """OpenStreetMap extracts of yours (.osm, .osm.gz, .osm.pbf): their streets become the networks of `split`."""
    opendrive: tuple[Path, ...] = ()
    """OpenDRIVE files (.xodr), likewise."""
    sumo: tuple[Path, ...] = ()
    """SUMO scenarios (.sumocfg), likewise; their own traffic drives, and a share of its cars becomes ego vehicles."""
    split: Literal["train", "test", "hard"] = "test"
    """Which split your own files make up; the others keep the preset's networks."""
    span_m: float | None = None
    """Side of the busiest square that is cut out of an extract, instead of the preset's."""
    mirrored: bool = False
    """Mirror the extracts of --osm: the world drives on the right, so places with left-hand traffic need it."""


def world_build(arguments: Sequence[str]) -> None:
    """`irlvla world build PRESET --out ROOT`"""
    import json

    from irlvla.world.build import MANIFEST, build_world, with_user_networks
    from irlvla.world.presets import PRESETS, FileSource

    name, rest = take_name(arguments, "world build", "preset", list(PRESETS))
    options = parse(WorldBuildOptions, rest, f"world build {name}")
    preset = PRESETS[name]
    given: list[tuple[FileSource, Path]] = [
        *(("osm", file) for file in options.osm),
        *(("opendrive", file) for file in options.opendrive),
        *(("sumo", file) for file in options.sumo),
    ]
    if given:
        preset = with_user_networks(preset, given, options.split, span_m=options.span_m, mirrored=options.mirrored)
    elif options.span_m is not None or options.mirrored:
        raise ConfigError("--span-m and --mirrored change a file of yours: give one with --osm or --opendrive")
    with progress_bar(console) as show:
        build_world(
            preset,
            options.out,
            seed=options.seed,
            workers=options.workers,
            on_progress=show,
        )
    manifest = json.loads((options.out / MANIFEST).read_text())
    for place, notes in manifest["left_out"].items():
        for note in notes:
            console.print(f"  {place}: {note}", highlight=False, markup=False)
    console.print(f"wrote {options.out}")


@dataclass(frozen=True)
class WorldInstructOptions:
    """Which scenes are given instructions."""

    data: Annotated[Path, tyro.conf.Positional]
    """Data root in NAVSIM's layout; instructions are written to its folder `driving_language`."""
    split: str = "world-train"
    """Split to instruct."""
    workers: str = "2"
    """Processes, or a Ray cluster: `ray`, `ray:HOST:PORT`."""


def world_instruct(arguments: Sequence[str]) -> None:
    """`irlvla world instruct ROOT --split SPLIT`"""
    from irlvla.data.language import INSTRUCTIONS, load_instructions
    from irlvla.data.scenes import open_scenes
    from irlvla.world.instructions import instruct_split

    options = parse(WorldInstructOptions, arguments, "world instruct")
    with progress_bar(console) as show:
        instruct_split(
            options.data,
            options.split,
            workers=options.workers,
            on_progress=lambda done, total: show("instructions", done, total, "logs"),
        )
    scenes = open_scenes(options.data, options.split)
    wanted = {token for token in scenes.tokens if len(token) == 16}
    folder = scenes.split.data_split
    logs = [load_instructions(options.data, folder, name) for name in {scenes.log_name(token) for token in wanted}]
    given = [plan for log in logs for token in wanted & log.keys() for plan in log[token]]
    console.print(f"{'instruction':<12} {'scenes':>7} {'possible':>9} {'safe':>6}", highlight=False)
    for kind in INSTRUCTIONS:
        plans = [plan for plan in given if plan.kind == kind]
        possible, safe = sum(plan.is_possible for plan in plans), sum(plan.is_safe for plan in plans)
        console.print(f"{kind:<12} {len(plans):>7} {possible:>9} {safe:>6}", highlight=False)
    left = len(wanted) - len({plan.token for plan in given})
    if left:
        console.print(f"{left} scenes cannot be scored and have no instructions")


@dataclass(frozen=True)
class WorldSheetOptions:
    """Which scenes are drawn on one page."""

    data: Annotated[Path, tyro.conf.Positional]
    """Data root in NAVSIM's layout."""
    out: Path
    """JPEG file."""
    split: str = "world-train"
    """Split to draw from."""
    scenes: int = 24
    """Scenes, evenly over the split."""
    columns: int = 4
    """Scenes side by side."""
    instructions: bool = False
    """Show what the scenes' instructions ask for instead of what cameras see; safe plans green, others red."""
    quality: int = 80
    """JPEG quality, 1 to 100."""


def world_sheet(arguments: Sequence[str]) -> None:
    """`irlvla world sheet ROOT --split SPLIT --out sheet.jpg`"""
    import numpy as np

    from irlvla.data.scenes import open_scenes
    from irlvla.errors import DataError
    from irlvla.evaluation.contact_sheet import write_contact_sheet

    options = parse(WorldSheetOptions, arguments, "world sheet")
    scenes = open_scenes(options.data, options.split)
    if len(scenes) == 0:
        raise DataError(f"split {options.split!r} of {options.data} has no scene: is the scene filter too narrow?")
    count = max(1, min(options.scenes, len(scenes)))
    shown = np.unique(np.linspace(0, len(scenes) - 1, count).round().astype(int))
    tokens = [scenes.tokens[int(index)] for index in shown]
    write_contact_sheet(
        scenes.subset(tokens),
        options.out,
        columns=options.columns,
        quality=options.quality,
        instructions=options.instructions,
    )
    console.print(f"wrote {options.out}: {len(tokens)} of {len(scenes)} scenes")


@dataclass(frozen=True)
class WorldReportOptions:
    """Whose scenes are measured."""

    data: Annotated[Path, tyro.conf.Positional]
    """Data root in NAVSIM's layout: an embedded world, or NAVSIM's own data."""
    out: Path
    """Folder for SPLIT.md, SPLIT.json and three SPLIT-….svg."""
    split: str = "world-test"
    """Split to measure; of two stages the first."""
    all_windows: bool = False
    """Measure also every window of the split's logs, so that the effect of the split's filter shows."""
    workers: int | str = 2
    """Who works: number of processes, `ray` or `ray:HOST:PORT`."""
    cache: Path | None = None
    """Folder that keeps scoring contexts between calls."""
    json: bool = False
    """Print the figures as one JSON object; progress goes to the error output."""


def world_report(arguments: Sequence[str]) -> None:
    """`irlvla world report ROOT --split SPLIT --out FOLDER`"""
    import json

    from irlvla.evaluation.distribution import DRIVERS, measure_split
    from irlvla.evaluation.distribution_report import write_distribution_report

    options = parse(WorldReportOptions, arguments, "world report")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{options.out} cannot be made ({error}): give another folder with --out") from error
    with progress_bar(Console(stderr=True, soft_wrap=True) if options.json else console) as show:
        distribution = measure_split(
            options.data,
            options.split,
            with_all_windows=options.all_windows,
            workers=options.workers,
            cache=options.cache,
            on_progress=lambda done, total: show("scenes", done, total, ""),
        )
    command = f"irlvla world report ROOT --split {distribution.split} --out DIR"
    command += " --all-windows" if options.all_windows else ""
    figures = write_distribution_report(distribution, options.out, command=command)
    if options.json:
        print(json.dumps(figures))
        return
    for name, group in figures["groups"].items():
        console.print(f"{name}: {group['scenes']} scenes of {group['logs']} logs", highlight=False, markup=False)
        for driver in DRIVERS:
            on, off = (group["drivers"][driver][f"human_filter_{said}"]["score"] for said in ("on", "off"))
            scores = f"{100 * on['estimate']:.1f}, without human filter {100 * off['estimate']:.1f}"
            console.print(f"  {driver}: EPDMS {scores}", highlight=False, markup=False)
    if figures["failures"]:
        first = figures["failures"][0]
        said = f"{len(figures['failures'])} scenes could not be measured, first {first['token']}: {first['reason']}"
        console.print(said, highlight=False, markup=False)
    console.print(f"wrote {options.out / distribution.split}.md, .json and three plots")


def _train(arguments: Sequence[str], stage: Literal["imitation", "reward", "ppo"], earlier: Sequence[str]) -> None:
    """Parse the options of one stage, whose defaults a recipe gives, and run it.

    Args:
        arguments: RECIPE and options.
        stage: Which one.
        earlier: Stages whose runs it starts from.
    """
    from dataclasses import make_dataclass

    from irlvla.recipes import RECIPES, load_recipe
    from irlvla.stages.imitation import train_imitation
    from irlvla.stages.ppo import train_ppo
    from irlvla.stages.reward import train_reward
    from irlvla.stages.scenes import DataConfig

    name, rest = take_name(arguments, f"train {stage}", "recipe", list(RECIPES))
    recipe = load_recipe(name)
    config = getattr(recipe, stage)
    options: list[tuple[str, Any, Any]] = [
        ("data", Annotated[Path, tyro.conf.arg(help="Data root in NAVSIM's layout.")], field()),
        ("out", Annotated[Path, tyro.conf.arg(help="Run folder; an interrupted run in it goes on.")], field()),
    ]
    options += [
        (run, Annotated[Path, tyro.conf.arg(help=f"Finished run folder of stage {run}.")], field()) for run in earlier
    ]
    options += [
        ("split", Annotated[str, tyro.conf.arg(help="Split to learn from.")], field(default="world-train")),
        ("max_scenes", Annotated[int | None, tyro.conf.arg(help="At most this many scenes.")], field(default=None)),
        ("seed", Annotated[int, tyro.conf.arg(help="Fixes weights, data order and noise.")], field(default=0)),
        ("config", type(config), field(default=config)),
    ]
    if stage == "imitation":
        options.append(("model", type(recipe.model), field(default=recipe.model)))
    given: Any = parse(make_dataclass("TrainOptions", options, frozen=True), rest, f"train {stage} {name}")
    data = DataConfig(given.data, given.split, given.max_scenes)
    with progress_bar(console) as show:
        progress = stage_progress(show)
        if stage == "imitation":
            train_imitation(given.model, given.config, data, given.out, seed=given.seed, on_progress=progress)
        elif stage == "reward":
            train_reward(given.imitation, given.config, data, given.out, seed=given.seed, on_progress=progress)
        else:
            train_ppo(
                given.imitation, given.reward, given.config, data, given.out, seed=given.seed, on_progress=progress
            )
    console.print(f"wrote {given.out}")


def train_imitation_command(arguments: Sequence[str]) -> None:
    """`irlvla train imitation RECIPE --data ROOT --out RUN`"""
    _train(arguments, "imitation", [])


def train_reward_command(arguments: Sequence[str]) -> None:
    """`irlvla train reward RECIPE --data ROOT --imitation RUN --out RUN`"""
    _train(arguments, "reward", ["imitation"])


def train_ppo_command(arguments: Sequence[str]) -> None:
    """`irlvla train ppo RECIPE --data ROOT --imitation RUN --reward RUN --out RUN`"""
    _train(arguments, "ppo", ["imitation", "reward"])


def stage_progress(show: Callable[[str, int, int, str], None]) -> "OnProgress":
    """Adapter from a training stage's progress to a bar."""

    def on_progress(progress: "Progress") -> None:
        show(progress.stage, progress.step, progress.total, metrics_text(progress.metrics))

    return on_progress


@dataclass(frozen=True)
class ScoreOptions:
    """What is scored, and how."""

    data: Path
    """Data root in NAVSIM's layout."""
    plans: Path
    """plans.npz (token [N], poses [N, 8, 3] or [N, 40, 3], optional name [N]) or an official submission.pkl."""
    out: Path
    """scores.parquet: one row a plan, in input order; or scores.csv in the layout of NAVSIM's own result file."""
    split: str = "test"
    """Split name: a YAML below ROOT/train_test_split, or a folder of navsim_logs."""
    metric: str = "epdms-2.2"
    """Metric version: epdms-2.2, epdms-2.2-prefix (before its human filter was repaired), or pdms-1.1 (NAVSIM v1)."""
    traffic: Literal["non_reactive", "reactive"] = "non_reactive"
    """How other road users move; pdms-1.1 knows log replay alone."""
    human_filter: Literal["on", "off"] | None = None
    """Whether what the human failed as well is lifted. Without it EPDMS filters; pdms-1.1 has no such filter."""
    mapping: Path | None = None
    """Split YAML with a two-stage mapping: follow-up scenes are scored too, and the official summary rows follow."""
    workers: int | str = 1
    """Number of processes; `ray` or `ray:HOST:PORT` scores over a Ray cluster."""
    cache: Path | None = None
    """Folder that keeps scoring contexts between calls."""
    json: bool = False
    """Print what came of it as one JSON object; progress goes to the error output."""


def score(arguments: Sequence[str]) -> int:
    """`irlvla score --data ROOT --split SPLIT --plans plans.npz --out scores.parquet`

    Returns:
        0 where a score came of it, also where some plans have none; 3 where the table is written but has no score to
        show: no plan could be scored, or the summary of two stages lacks a scene.
    """
    import json

    from irlvla.scoring.score_table import SUMMARY_TOKENS, summarise
    from irlvla.scoring.table import score_plans_file

    options = parse(ScoreOptions, arguments, "score")
    with progress_bar(Console(stderr=True, soft_wrap=True) if options.json else console) as show:
        table = score_plans_file(
            options.data,
            options.split,
            options.plans,
            options.out,
            metric=options.metric,
            traffic=options.traffic,
            human_filter=None if options.human_filter is None else options.human_filter == "on",
            mapping=options.mapping,
            workers=options.workers,
            cache=options.cache,
            on_progress=lambda done, total: show("plans", done, total, ""),
        )
    summary = summarise(table)
    if options.json:
        print(json.dumps({"out": str(options.out), **summary, "stamps": dict(table.stamps)}))
    else:
        _print_scores(summary, SUMMARY_TOKENS)
        console.print(f"wrote {options.out}")
    totals = [driver[token] for driver in summary["drivers"].values() for token in SUMMARY_TOKENS if token in driver]
    return 0 if summary["scored"] and None not in totals else 3


def _print_scores(summary: dict[str, Any], totals: Sequence[str]) -> None:
    """Mean score of each driver, and why plans have none."""
    console.print(f"{summary['scored']} of {summary['plans']} plans scored", highlight=False)
    for name, driver in summary["drivers"].items():
        for figure in ("score", *totals):
            if figure in driver:
                value = "none" if driver[figure] is None else f"{100 * driver[figure]:.2f}"
                label = "mean score" if figure == "score" else figure
                console.print(f"  {name or 'the plans'}: {label} {value}", highlight=False, markup=False)
    for unscored in summary["unscored"]:
        console.print(
            f"  {unscored['plans']} without a score, first {unscored['first']}: {unscored['reason']}",
            highlight=False,
            markup=False,
        )


@dataclass(frozen=True)
class EvaluateOptions:
    """Which drivers are compared, and on what."""

    drivers: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders of stage imitation or ppo, plans.npz files, or official submission files. NAME=RUN gives a run a name
    of its own; runs of one name with several seeds share a row."""
    data: Path
    """Data root in NAVSIM's layout."""
    out: Path
    """Folder for the table, the page and one Parquet file a driver."""
    split: str = "world-test"
    """Split to evaluate on; in two stages where it maps follow-up scenes, as `world-hard` does."""
    reward: Path | None = None
    """Run folder of stage reward: adds the reward it expects, and a best-of-N driver."""
    best_of: int = 16
    """Candidates of the best-of-N driver."""
    baselines: bool = True
    """Whether constant velocity and the human (in two stages PDM-Closed) are in the table."""
    max_scenes: int | None = None
    """Evaluate the first scenes only; in two stages whole groups of them, at least one."""
    pictures: int = 3
    """Scenes shown per group on the page; 0 leaves pictures out."""
    workers: int | str = 2
    """Who builds scoring contexts: number of processes, `ray` or `ray:HOST:PORT`."""
    cache: Path | None = None
    """Folder that keeps scoring contexts between calls."""
    json: bool = False
    """Print the table as one JSON object; progress goes to the error output."""


def evaluate_command(arguments: Sequence[str]) -> None:
    """`irlvla evaluate RUN… --data ROOT --split SPLIT --out FOLDER`"""
    options = parse(EvaluateOptions, arguments, "evaluate")
    evaluate_drivers(options)


def evaluate_drivers(options: EvaluateOptions, training_runs: dict[Any, Path] | None = None) -> None:
    """Evaluate drivers, print the table, and write results.md, report.html and the Parquet files.

    Args:
        options: What to compare.
        training_runs: Stage -> run folder, for the training curves on the page.
    """
    import json
    from collections import Counter
    from dataclasses import asdict

    from irlvla.data.scenes import open_scenes
    from irlvla.errors import DataError
    from irlvla.evaluation.evaluate import evaluate, first_scenes
    from irlvla.evaluation.policies import (
        BestOfN,
        ConstantVelocity,
        Human,
        LearnedPolicy,
        LearnedReward,
        PdmClosed,
        plans_files,
    )
    from irlvla.evaluation.report import write_report
    from irlvla.evaluation.table import make_rows, render_markdown, render_terminal
    from irlvla.files import write_text
    from irlvla.scoring.context import ScoringContext, build_contexts

    scenes = open_scenes(options.data, options.split)
    if len(scenes) == 0:
        raise DataError(f"split {options.split!r} of {options.data} has no scene: is the scene filter too narrow?")
    if options.max_scenes is not None:
        scenes = first_scenes(scenes, options.max_scenes)
    # Filled below: a driver that cannot be read should be named before the long work begins.
    contexts: dict[str, ScoringContext] = {}
    # Nobody drove on in a follow-up scene, so two stages have another privileged driver.
    expert = PdmClosed(contexts) if scenes.split.mapping else Human()
    policies: list[Policy] = [ConstantVelocity(), expert] if options.baselines else []
    learned: list[LearnedPolicy] = []
    for path in options.drivers:
        if path.suffix in {".npz", ".pkl"}:
            policies += plans_files(path)
        else:
            name, _, run = str(path).rpartition("=")
            learned.append(LearnedPolicy(Path(run), name=name or None))
    policies += learned
    reward = None
    if options.reward is not None and learned:
        reward = LearnedReward(options.reward, learned[0])
        policies.append(BestOfN(learned[0], reward, options.best_of))
    with progress_bar(Console(stderr=True, soft_wrap=True) if options.json else console) as show:
        built, failures = build_contexts(
            scenes,
            workers=options.workers,
            cache=options.cache,
            on_progress=lambda done, total: show("scoring contexts", done, total, ""),
        )
        contexts.update(built)
        results = evaluate(
            policies,
            scenes,
            contexts,
            reward=reward,
            failures=failures,
            out=options.out,
            on_progress=lambda done, total: show("plans", done, total, ""),
        )
    rows = make_rows(results)
    if not options.json:
        console.print(render_terminal(rows))
        if results.failures:
            console.print(f"{len(results.failures)} scenes could not be evaluated; all are in results.json:")
            for reason, count in Counter(failure.reason for failure in results.failures).most_common(5):
                console.print(f"  {count}: {reason}", highlight=False, markup=False)
    write_text(options.out / "results.md", render_markdown(rows, stamps=results.stamps))
    write_report(
        results,
        options.out / "report.html",
        scenes=scenes if options.pictures else None,
        runs=training_runs,
        answer=learned[-1].answer if learned else None,
        scenes_a_group=options.pictures,
    )
    if options.json:
        content = {"out": str(options.out), "rows": [asdict(row) for row in rows], "stamps": dict(results.stamps)}
        print(json.dumps(content | {"failures": [asdict(failure) for failure in results.failures]}))
    else:
        console.print(f"wrote {options.out / 'results.md'} and {options.out / 'report.html'}")


@dataclass(frozen=True)
class PlanOptions:
    """Who plans for what."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of stage imitation or ppo."""
    data: Path
    """Data root in NAVSIM's layout; neither maps nor futures are needed."""
    out: Path
    """Folder for plans.npz and the pictures."""
    split: str = "world-test"
    """Split to plan for."""
    pictures: int = 8
    """Scenes, evenly over the split, whose cameras are drawn with boxes and plan."""


def plan(arguments: Sequence[str]) -> None:
    """`irlvla plan RUN --data ROOT --split SPLIT --out FOLDER`"""
    import cv2
    import numpy as np

    from irlvla.data.plans import write_plans
    from irlvla.data.scenes import open_scenes
    from irlvla.errors import DataError
    from irlvla.evaluation.draw import DrawnPlan, draw_all_cameras, plan_colours
    from irlvla.evaluation.policies import LearnedPolicy

    options = parse(PlanOptions, arguments, "plan")
    scenes = open_scenes(options.data, options.split, num_future_frames=0)
    if len(scenes) == 0:
        raise DataError(f"split {options.split!r} of {options.data} has no scene: is the scene filter too narrow?")
    policy = LearnedPolicy(options.run)
    options.out.mkdir(parents=True, exist_ok=True)
    poses = []
    with progress_bar(console) as show:
        for first in range(0, len(scenes), 32):
            poses.append(policy.plan(scenes[first : first + 32]))
            show("plans", min(first + 32, len(scenes)), len(scenes), "")
    plans = np.concatenate(poses)
    write_plans(options.out / "plans.npz", scenes.tokens, plans, [policy.name] * len(plans))
    colour = plan_colours([policy.name])[policy.name]
    shown = np.unique(np.linspace(0, len(scenes) - 1, min(options.pictures, len(scenes))).round().astype(int))
    for index in shown:
        sheet = draw_all_cameras(scenes[int(index)], [DrawnPlan(policy.name, plans[index], colour)])
        cv2.imwrite(str(options.out / f"{scenes.tokens[index]}.jpg"), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    console.print(f"wrote {options.out / 'plans.npz'} and {len(shown)} pictures")


@dataclass(frozen=True)
class AskOptions:
    """Whom to ask about what."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of stage imitation or ppo."""
    token: Annotated[str, tyro.conf.Positional]
    """Scene."""
    data: Path
    """Data root in NAVSIM's layout."""
    split: str = "world-test"
    """Split that holds the scene."""
    instruction: str | None = None
    """Another instruction than the usual driving question."""


def ask(arguments: Sequence[str]) -> None:
    """`irlvla ask RUN TOKEN --data ROOT`"""
    from dataclasses import replace

    from irlvla.data.scenes import open_scenes
    from irlvla.evaluation.policies import LearnedPolicy

    options = parse(AskOptions, arguments, "ask")
    scene = open_scenes(options.data, options.split).by_token(options.token)
    if options.instruction is not None:
        scene = replace(scene, instruction=options.instruction)
    policy = LearnedPolicy(options.run)
    console.print(f"[dim]{scene.instruction}[/dim]\n{policy.answer([scene])[0]}")
    for step, (x_m, y_m, heading_rad) in enumerate(policy.plan([scene])[0], start=1):
        console.print(f"  {step / 2:.1f} s  x {x_m:6.2f} m  y {y_m:6.2f} m  heading {heading_rad:+.3f} rad")


@dataclass(frozen=True)
class DoctorOptions:
    """How a data root is looked at."""

    json: bool = False
    """Print the findings as JSON."""
    workers: int = 1
    """Processes to read logs with."""


def doctor(arguments: Sequence[str]) -> None:
    """`irlvla doctor ROOT`"""
    import json
    from dataclasses import asdict

    from irlvla.data.doctor import examine

    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] in {"-h", "--help"}:
            parse(DoctorOptions, arguments, "doctor ROOT")
        raise ConfigError("name the data root: irlvla doctor ROOT")
    options = parse(DoctorOptions, arguments[1:], f"doctor {arguments[0]}")
    with progress_bar(Console(soft_wrap=True, stderr=True)) as show:
        findings = examine(
            Path(arguments[0]),
            workers=options.workers,
            on_progress=lambda done, total, what: show(what, done, total, ""),
        )
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            console.print(f"{finding.severity}: {finding.where}: {finding.problem}", highlight=False, markup=False)
            console.print(f"    {finding.cure}", highlight=False, markup=False)
    errors = sum(finding.severity == "error" for finding in findings)
    if errors:
        raise DataError(f"{arguments[0]} has {errors} kind{'s' if errors > 1 else ''} of error")
    if not options.json:
        console.print(f"{arguments[0]}: no errors, {len(findings)} warnings and notes")


@dataclass(frozen=True)
class DriveOptions:
    """Who drives, where and how often."""

    drivers: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Run folders of stage imitation or ppo (NAME=RUN gives one a name of its own), or built-in drivers: human (SUMO's
    own driver), constant-velocity, pdm-closed."""
    policy: tuple[str, ...] = ()
    """The same, as an option."""
    out: Path = field(kw_only=True)
    """Folder for the table and one file a drive; the same command goes on with it."""
    world: str = "tiny"
    """Preset whose held-out networks are driven."""
    drives: int = 10
    """Drives of each driver, on routes that SUMO's own driver manages."""
    seconds: float = 60.0
    """Longest drive."""
    seed: int = 0
    """Seed of the world and of the drives."""
    video: bool = False
    """Whether an MP4 of cameras and the view from above is made of each drive."""


def drive(arguments: Sequence[str]) -> None:
    """`irlvla drive RUN --world tiny --out FOLDER`"""
    from irlvla.errors import ConfigError
    from irlvla.evaluation.drive import BUILT_IN, drive_policies, find_driver
    from irlvla.evaluation.drive_table import left_out_text, make_columns, render_terminal, write_drives
    from irlvla.world.presets import PRESETS

    options = parse(DriveOptions, arguments, "drive")
    preset, _ = take_name([options.world], "drive", "world", list(PRESETS))
    names = (*options.drivers, *options.policy)
    if not names:
        raise ConfigError(f"name who drives: a run folder, or one of {', '.join(BUILT_IN)}")
    drivers = [find_driver(name) for name in names]
    with progress_bar(console) as show:
        drives = drive_policies(
            drivers,
            PRESETS[preset],
            options.out,
            drives=options.drives,
            seed=options.seed,
            time_limit_s=options.seconds,
            film=options.video,
            on_progress=show,
        )
    write_drives(drives, options.out)
    console.print(render_terminal(make_columns(drives)))
    console.print(left_out_text(drives), highlight=False)
    console.print(f"wrote {options.out / 'results.md'} and {options.out / 'results.json'}")
