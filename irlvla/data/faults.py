"""Faults of the human driver: rare, kept in the data, and labelled scene by scene.

The embedded world's humans brake late, drift over a line or enter on late yellow now and then, as people do. Whoever
imitates them may want to know when. The labels lie beside the logs, so that the logs stay as NAVSIM's are.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from irlvla.errors import DataError
from irlvla.files import read_lines, write_json_lines

FAULTS = {
    "hard braking": "deceleration, m/s²",
    "tailgating": "time gap, s",
    "late yellow": "seconds of yellow when the stop line is crossed",
    "over the stop line": "how far the front stands beyond a red light's stop line, m",
    "cut corner": "how far the centre is on the inner side of a left turn's centerline, m",
    "over the line": "how far the body reaches beyond its lane's edge, m",
    "over the kerb": "how far a corner leaves the drivable area, m",
}
"""Kind of fault -> what its amount measures."""


@dataclass(frozen=True)
class HumanFault:
    """Something a good driver would not have done."""

    kind: str
    """A key of FAULTS."""
    from_s: float
    """When it begins, after the scene's present; 0 if it has begun before."""
    to_s: float
    amount: float
    """The worst of it, as FAULTS says."""


def faults_path(root: Path, data_split: str, log_name: str) -> Path:
    """Where the labels of a log lie."""
    return root / "human_faults" / data_split / f"{log_name}.jsonl"


def write_faults(
    root: Path, data_split: str, log_name: str, faults: Iterable[tuple[str, tuple[HumanFault, ...]]]
) -> None:
    """Write the faults of a log's scenes: one JSON line a token, also for those without a fault.

    A line is `{"token": …, "faults": [{"kind": …, "from_s": …, "to_s": …, "amount": …}, …]}`.
    """
    rows = ({"token": token, "faults": [asdict(fault) for fault in found]} for token, found in faults)
    write_json_lines(faults_path(root, data_split, log_name), rows)


def load_faults(root: Path, data_split: str, log_name: str) -> dict[str, tuple[HumanFault, ...]]:
    """Faults of one log by token; empty where the data has no labels, as NAVSIM's own.

    Raises:
        DataError: The file is there but damaged.
    """
    path = faults_path(root, data_split, log_name)
    found = {}
    for number, line in enumerate(read_lines(path), start=1):
        try:
            row = json.loads(line)
            faults = tuple(HumanFault(**fault) for fault in row["faults"])
            found[str(row["token"])] = faults
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is no label of faults ({error}); build the world again") from error
        unknown = [fault.kind for fault in faults if fault.kind not in FAULTS]
        if unknown:
            raise DataError(f"{path}: line {number} has an unknown kind of fault {unknown[0]!r}")
    return found
