"""A pickle can at worst be wrong: nothing in it runs, whatever it asks for."""

import contextlib
import io
import os
import pickle
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from irlvla.data.pickles import DevkitObject, devkit_object, load_pickle, write_pickle
from irlvla.errors import DataError

LOG = "2021.01.01.12.00.00_veh-00_00000_cross_straight.pkl"


def stored(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("function", "name"), [(os.system, "system"), (eval, "eval"), (getattr, "getattr"), (np.load, "load")]
)
def test_foreign_call_is_refused_by_name_and_not_run(
    tmp_path: Path, protocol: int, function: Callable[..., Any], name: str
) -> None:
    trace = tmp_path / "ran"
    path = stored(tmp_path / "log.pkl", pickle.dumps([Call(function, f"touch {trace}")], protocol))
    with pytest.raises(DataError, match=name) as error:
        load_pickle(path)
    assert str(path) in str(error.value)
    assert not trace.exists()


def test_plain_containers_and_arrays_come_back(tmp_path: Path) -> None:
    content = {
        "list": [1, 2.5, "text", None, True, b"bytes"],
        "tuple": (1, {2, 3}, frozenset({4})),
        "ordered": OrderedDict(a=1),
        "array": np.arange(6.0).reshape(2, 3),
        "column_major": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">i4"),
        "text": np.array(["vehicle", "bicycle"]),
        "objects": np.array(["a", None], dtype=object),
        "scalar": np.float32(1.5),
        "big": 1 << 70,
    }
    for protocol in (2, 3, 4, 5):
        loaded = load_pickle(stored(tmp_path / "log.pkl", pickle.dumps(content, protocol)))
        for key, value in content.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(np.asarray(loaded[key]), value)
                assert loaded[key].dtype.newbyteorder("=") == value.dtype.newbyteorder("=")
            else:
                assert loaded[key] == value


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        b"\x80\x04",
        b"\x80\x04].trailing"[:3],
        # A string and a bytearray longer than the file, and a memo of billions of entries.
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 50) + b".",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
        b"\x80\x02]r" + struct.pack("<I", (1 << 32) - 1) + b".",
    ],
)
def test_damaged_or_greedy_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = stored(tmp_path / "log.pkl", content)
    with pytest.raises(DataError, match=r"log\.pkl"):
        load_pickle(path)


def test_array_that_claims_more_than_it_stores_is_an_error(tmp_path: Path) -> None:
    whole = pickle.dumps(np.zeros(100), 4)
    shape = pickle.dumps((100,), 4)[2:-1]
    assert b"Kd\x85" in whole, shape
    with pytest.raises(DataError):
        load_pickle(stored(tmp_path / "log.pkl", whole.replace(b"Kd\x85", b"K\xff\x85")))


def test_array_of_forged_references_is_an_error(tmp_path: Path) -> None:
    # Elements declared as references but stored as numbers would be followed as addresses.
    forged = io.BytesIO(pickle.dumps(np.zeros(4, dtype=np.int64), 4)).getvalue().replace(b"i8", b"O8")
    with pytest.raises(DataError):
        load_pickle(stored(tmp_path / "log.pkl", forged))
    structured = pickle.dumps(np.zeros(2, dtype=[("a", "i8")]), 4)
    with pytest.raises(DataError):
        load_pickle(stored(tmp_path / "log.pkl", structured))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 1 << 20), flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 7)), max_size=4))
@pytest.mark.parametrize("source", ["log", "synthetic"])
def test_bit_flips_and_cuts_are_read_or_reported(
    golden: Path, tmp_path: Path, source: str, cut: int, flips: list[tuple[int, int]]
) -> None:
    if source == "log":
        content = bytearray((golden / "alpha" / "navsim_logs" / "test" / LOG).read_bytes()[:6000])
    else:
        folder = golden / "beta" / "navhard_two_stage" / "synthetic_scene_pickles"
        content = bytearray(sorted(folder.glob("*.pkl"))[0].read_bytes())
    if not flips:
        del content[cut % len(content) :]
    for position, bit in flips:
        content[position % len(content)] ^= 1 << bit
    # Whatever else is raised fails the test, as would a crash of the interpreter.
    with contextlib.suppress(DataError):
        load_pickle(stored(tmp_path / "log.pkl", bytes(content)))


def test_synthetic_scene_becomes_inert_records(golden: Path) -> None:
    path = sorted((golden / "beta" / "navhard_two_stage" / "synthetic_scene_pickles").glob("*.pkl"))[0]
    tracked = load_pickle(path)["extended_detections_tracks"][0]["tracked_objects"]["tracked_objects"][0]
    assert isinstance(tracked, DevkitObject)
    assert tracked.global_name == "nuplan.common.actor_state.agent.Agent"
    assert tracked["_box"]["_center"]["x"] > 1e5
    assert tracked["_tracked_object_type"].arguments == (0,)


def test_rewritten_synthetic_scene_names_the_same_globals(golden: Path, tmp_path: Path) -> None:
    path = sorted((golden / "beta" / "navhard_two_stage" / "synthetic_scene_pickles").glob("*.pkl"))[0]
    write_pickle(tmp_path / "copy.pkl", load_pickle(path))
    # The devkit pins numpy 1, which knows no `numpy._core`.
    expected = global_names(path.read_bytes()) - {"numpy.core.numeric._frombuffer"}
    arrays = {"numpy.core.multiarray._reconstruct", "numpy.ndarray"}
    assert global_names((tmp_path / "copy.pkl").read_bytes()) == expected | arrays


def test_stand_in_survives_writing_and_reading(tmp_path: Path) -> None:
    pose = devkit_object("nuplan.common.actor_state.state_representation.StateSE2", x=1.0, y=2.0, heading=0.5)
    kind = devkit_object("nuplan.common.actor_state.tracked_objects_types.TrackedObjectType", 3)
    write_pickle(tmp_path / "pose.pkl", [pose, kind])
    loaded_pose, loaded_kind = load_pickle(tmp_path / "pose.pkl")
    assert loaded_pose.fields == {"x": 1.0, "y": 2.0, "heading": 0.5}
    assert loaded_kind.arguments == (3,)


def global_names(content: bytes) -> set[str]:
    """Globals that a protocol 4 pickle refers to, following its memo."""
    names, memo, recent = set(), [], []
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE"):
            recent.append(argument)
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            recent.append(memo[argument])
        elif opcode.name == "MEMOIZE":
            memo.append(recent[-1] if recent else None)
        elif opcode.name == "STACK_GLOBAL":
            names.add(f"{recent[-2]}.{recent[-1]}")
            recent.append(None)
        else:
            recent.append(None)
    return names
