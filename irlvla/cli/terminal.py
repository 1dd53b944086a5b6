"""What the terminal shows: progress where people wait, and parsed options."""

import difflib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from irlvla.errors import ConfigError

Parsed = TypeVar("Parsed")

SHOWN_METRICS = (
    "loss",
    "held_out_mean_error_m",
    "rank_correlation",
    "predicted_reward",
    "true_epdms",
)
"""Metrics beside the bar, where a stage reports them."""


@contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[str, int, int, str], None]]:
    """A bar per piece of work; yields `show(what, done, total, detail)`.

    On something that is not a terminal, one line is printed whenever a tenth of the work is done.
    """
    if not console.is_terminal:
        printed: dict[str, int] = {}

        def print_tenths(what: str, done: int, total: int, detail: str) -> None:
            tenth = 10 * done // max(total, 1)
            if tenth > printed.get(what, -1):
                printed[what] = tenth
                console.print(f"  {what}: {done}/{total} {detail}".rstrip(), highlight=False, markup=False)

        yield print_tenths
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", style="dim"),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def update_bar(what: str, done: int, total: int, detail: str) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, detail="")
            bars.update(tasks[what], completed=done, total=total, detail=detail)

        yield update_bar


def metrics_text(metrics: Any) -> str:
    """The few metrics worth a glance, as `name value` pairs."""
    return "  ".join(f"{name} {metrics[name]:.3g}" for name in SHOWN_METRICS if name in metrics)


def parse(target: Callable[..., Parsed], arguments: Sequence[str], command: str, **defaults: Any) -> Parsed:
    """Fill a dataclass or call a function from command-line options; a wrong option ends the program with a hint."""
    import tyro

    return tyro.cli(target, args=list(arguments), prog=f"irlvla {command}", **defaults)


def take_name(arguments: Sequence[str], command: str, what: str, names: Sequence[str]) -> tuple[str, list[str]]:
    """Split off a leading name (a recipe, a preset) that decides the defaults of all other options.

    Raises:
        ConfigError: the name is missing or unknown.
    """
    known = ", ".join(names)
    if arguments and arguments[0] in {"-h", "--help"}:
        print(
            f"usage: irlvla {command} {what.upper()} [options]\n\n{what}: one of {known}\n"
            f"For the options: irlvla {command} {names[0]} --help"
        )
        sys.exit(0)
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError(f"name a {what} first: one of {known}")
    name = arguments[0]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"perhaps you meant {near[0]!r}; " if near else ""
        raise ConfigError(f"unknown {what} {name!r}: {hint}there are {known}")
    return name, list(arguments[1:])
