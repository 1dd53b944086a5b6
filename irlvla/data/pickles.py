"""Reading the pickles NAVSIM is distributed in, without running anything they ask for.

Logs hold plain containers and numpy arrays. Synthetic scenes and submissions also hold instances of a few devkit
classes; those become `DevkitObject`s, which store their state and do nothing. Where the devkit let its configuration
slip into a submission, that is read over. Any other global is refused, so a log from an unknown source can at worst be
wrong.
"""

import copyreg
import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import FunctionType
from typing import Any, ClassVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from irlvla.errors import DataError
from irlvla.files import write_bytes

DEVKIT_GLOBALS = frozenset(
    {
        "navsim.common.dataclasses.Trajectory",
        "nuplan.common.actor_state.agent.Agent",
        "nuplan.common.actor_state.oriented_box.OrientedBox",
        "nuplan.common.actor_state.scene_object.SceneObjectMetadata",
        "nuplan.common.actor_state.state_representation.StateSE2",
        "nuplan.common.actor_state.state_representation.StateVector2D",
        "nuplan.common.actor_state.state_representation.TimePoint",
        "nuplan.common.actor_state.static_object.StaticObject",
        "nuplan.common.actor_state.tracked_objects.TrackedObjects",
        "nuplan.common.actor_state.tracked_objects_types.TrackedObjectType",
        "nuplan.common.maps.maps_datatypes.TrafficLightStatusData",
        "nuplan.common.maps.maps_datatypes.TrafficLightStatuses",
        "nuplan.common.maps.maps_datatypes.TrafficLightStatusType",
        "nuplan.planning.simulation.observation.observation_type.DetectionsTracks",
        "nuplan.planning.simulation.trajectory.trajectory_sampling.TrajectorySampling",
    }
)
"""Devkit classes that official synthetic-scene and submission files hold instances of."""


class DevkitObject:
    """An instance of a devkit class, reduced to what its pickle stores.

    Attributes:
        arguments: What the class was called with (an enumeration member's value), else empty.
        fields: Stored attributes by name.
    """

    global_name: ClassVar[str] = ""
    has_slots: ClassVar[bool] = False
    arguments: tuple[Any, ...]
    fields: dict[str, Any]

    def __new__(cls, *arguments: Any) -> "DevkitObject":
        instance = object.__new__(cls)
        instance.arguments = arguments
        instance.fields = {}
        return instance

    def __setstate__(self, state: Any) -> None:
        # Classes with slots pickle as (dict or None, dict of slots).
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if part is not None:
                self.fields.update(part)

    def __getitem__(self, field: str) -> Any:
        return self.fields[field]

    def __reduce__(self) -> tuple[Any, ...]:
        if self.arguments:
            return type(self), self.arguments
        state: Any = (None, self.fields) if self.has_slots else self.fields
        return copyreg.__newobj__, (type(self),), state  # type: ignore[attr-defined]


_SLOTTED = ("StateSE2", "StateVector2D", "TimePoint")

_DEVKIT_CLASSES: dict[str, type[DevkitObject]] = {
    name: type(
        name.rpartition(".")[2],
        (DevkitObject,),
        {"global_name": name, "has_slots": name.endswith(_SLOTTED)},
    )
    for name in sorted(DEVKIT_GLOBALS)
}


def devkit_object(global_name: str, *arguments: Any, **fields: Any) -> DevkitObject:
    """A stand-in that `write_pickle` stores as an instance of the devkit class `global_name`.

    Args:
        global_name: One of DEVKIT_GLOBALS.
        arguments: Value of an enumeration member; an object with arguments stores no fields.
        fields: Attributes under the names the devkit class uses.
    """
    instance = _DEVKIT_CLASSES[global_name](*arguments)
    instance.fields = fields
    return instance


class _ArrayType:
    """Stands for `numpy.ndarray`, which pickles only pass on to the array builder."""

    def __new__(cls, *_: Any) -> "_ArrayType":
        raise pickle.UnpicklingError("an array is built without its shape")


_DTYPE = re.compile(r"[<>|=]?(?:[biufcSU]\d{0,9}|\?|O8?)")


class _Dtype:
    """Stands for `numpy.dtype`: a forged state given to the real one can crash the interpreter."""

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or _DTYPE.fullmatch(code) is None:
            raise pickle.UnpicklingError(f"array element type {code!r} is not a plain one")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[3] is not None or state[4] is not None or state[2] is not None:
            raise pickle.UnpicklingError("structured array elements do not occur in driving logs")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray[Any, np.dtype[Any]]):
    """An array whose stored state is checked before numpy trusts it."""

    def __setstate__(self, state: Any) -> None:
        _, shape, element, is_fortran, content = state
        dtype = element.dtype
        size = int(np.prod([int(length) for length in shape], dtype=object))
        if dtype.hasobject:
            if not isinstance(content, list) or len(content) != size:
                raise pickle.UnpicklingError("an object array and its shape disagree")
        elif not isinstance(content, bytes) or len(content) != size * dtype.itemsize:
            raise pickle.UnpicklingError("an array and its shape disagree")
        super().__setstate__((1, tuple(shape), dtype, bool(is_fortran), content))  # type: ignore[arg-type]


def _reconstruct(*_: Any) -> _Array:
    return np.zeros(0, dtype=np.int8).view(_Array)


def _frombuffer(buffer: bytes, element: _Dtype, shape: tuple[int, ...], order: str) -> NDArray[Any]:
    if order not in ("C", "F"):
        raise pickle.UnpicklingError(f"unknown memory order {order!r}")
    return np.frombuffer(buffer, dtype=element.dtype).reshape(shape, order=order)  # type: ignore[call-overload]


def _scalar(element: _Dtype, content: Any) -> Any:
    if element.dtype.hasobject:
        return content
    return np.frombuffer(content, dtype=element.dtype, count=1)[0]


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"unexpected encoding {encoding!r}")
    return text.encode("latin1")


def _bytearray(content: bytes = b"") -> bytearray:
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError("a bytearray is built from something else than bytes")
    return bytearray(content)


def _bytes() -> bytes:
    return b""


def _collection(kind: type) -> Callable[..., Any]:
    def build(items: Any = ()) -> Any:
        if not isinstance(items, list | tuple):
            raise pickle.UnpicklingError(f"a {kind.__name__} is built from a {type(items).__name__}")
        return kind(items)

    return build


class _ReadOver:
    """Stands for anything of a configuration: takes whatever the pickle hands over, and keeps none of it."""

    def __new__(cls, *_: Any) -> "_ReadOver":
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _default_dictionary(*_: Any) -> dict[Any, Any]:
    return {}


_CONFIGURATION = (
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean", "Bytes", "Path")),
    "typing.Any",
    *(f"builtins.{kind}" for kind in ("dict", "list", "int", "float", "bool", "str")),
)
"""What Hydra's configuration is made of. The official script stores the list of authors as a part of it, and with it
the whole."""


def _path(*parts: str) -> PurePosixPath:
    return PurePosixPath(*parts)


_PLAIN_GLOBALS: dict[str, Any] = (
    {
        "numpy.ndarray": _ArrayType,
        "numpy.dtype": _Dtype,
        "_codecs.encode": _encode_latin1,
        "collections.OrderedDict": OrderedDict,
        "pathlib.PosixPath": _path,
        "pathlib.PurePosixPath": _path,
        "pathlib._local.PosixPath": _path,
        "collections.defaultdict": _default_dictionary,
    }
    | dict.fromkeys(_CONFIGURATION, _ReadOver)
    | {
        f"{builtins}.{name}": build
        # Protocol 2 is written under the names of Python 2.
        for builtins in ("builtins", "__builtin__")
        for name, build in (
            ("bytearray", _bytearray),
            ("bytes", _bytes),
            ("set", _collection(set)),
            ("frozenset", _collection(frozenset)),
        )
    }
    | {
        f"numpy.{core}.{name}": build
        for core in ("core", "_core")
        for name, build in (
            ("multiarray._reconstruct", _reconstruct),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _frombuffer),
        )
    }
)


class _RefusedGlobal(pickle.UnpicklingError):
    pass


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        global_name = f"{module}.{name}"
        if global_name in _DEVKIT_CLASSES:
            return _DEVKIT_CLASSES[global_name]
        if global_name in _PLAIN_GLOBALS:
            return _PLAIN_GLOBALS[global_name]
        raise _RefusedGlobal(global_name)


# Operand layouts of the opcodes of pickle protocols 2 to 5: a fixed number of bytes, or one of the kinds below. Opcodes
# left out are those of protocols 0 and 1, of the extension registry, persistent ids and out-of-band buffers.
_REFUSED, _COUNT_1, _COUNT_4, _COUNT_8, _TWO_LINES, _MEMO_1, _MEMO_4, _STOP = -1, -2, -3, -4, -5, -6, -7, -8
_OPERANDS = np.full(256, _REFUSED, dtype=np.int64)
for _kind, _opcodes in (
    (0, b"(012NR)]}abdelstu" + bytes([0x81, *range(0x85, 0x8A), *range(0x8F, 0x95)])),
    (1, b"Kh\x80"),
    (2, b"M"),
    (4, b"Jj"),
    (8, b"G\x95"),
    (_COUNT_1, b"CU\x8a\x8c"),
    (_COUNT_4, b"BTX\x8b"),
    (_COUNT_8, b"\x8d\x8e\x96"),
    (_TWO_LINES, b"c"),
    (_MEMO_1, b"q"),
    (_MEMO_4, b"r"),
    (_STOP, b"."),
):
    _OPERANDS[list(_opcodes)] = _kind


@njit(cache=True)
def _first_unsound_byte(content: NDArray[np.uint8], operands: NDArray[np.int64]) -> int:
    """Position of the first opcode that is refused, cut off, or asks for more memory than the file accounts for.

    The interpreter's own reader allocates whatever a damaged length or memo index asks for, so they are checked first.
    Returns -1 for a stream that ends with its stop opcode.
    """
    position, count = 0, 0
    while position < content.size:
        opcode_position = position
        kind = operands[content[position]]
        position += 1
        count += 1
        if kind == _STOP:
            return -1
        if kind == _REFUSED:
            return opcode_position
        if kind == _TWO_LINES:
            lines = 0
            while lines < 2 and position < content.size:
                lines += content[position] == 10
                position += 1
            continue
        width = kind
        if kind in (_COUNT_1, _MEMO_1):
            width = 1
        elif kind in (_COUNT_4, _MEMO_4):
            width = 4
        elif kind == _COUNT_8:
            width = 8
        if position + width > content.size:
            return opcode_position
        if kind < 0:
            number = 0
            for i in range(width - 1, -1, -1):
                if number > content.size:
                    return opcode_position
                number = number * 256 + content[position + i]
            if kind in (_MEMO_1, _MEMO_4):
                if number > 2 * count + 256:
                    return opcode_position
                number = 0
            if number > content.size - position - width:
                return opcode_position
            position += number
        position += width
    return content.size


def load_pickle(path: Path) -> Any:
    """Read a pickle of plain containers, arrays and devkit instances; nothing in the file is executed.

    Args:
        path: A log, synthetic scene or submission in NAVSIM's layout (pickle protocols 2 to 5).
    Returns:
        The stored object. Arrays are of an ndarray subclass: pass them through `np.asarray`. Instances of devkit
        classes are `DevkitObject`s.
    Raises:
        DataError: The file is missing, damaged, or asks for a global that no driving log needs.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if not content:
        raise DataError(f"{path}: the file is empty; copy or download it again")
    unsound = _first_unsound_byte(np.frombuffer(content, dtype=np.uint8), _OPERANDS)
    if unsound >= 0:
        raise DataError(f"{path}: not a whole pickle (byte {unsound} of {len(content)}); copy or download it again")
    try:
        return _RestrictedUnpickler(io.BytesIO(content)).load()
    except _RefusedGlobal as refused:
        raise DataError(
            f"{path}: refers to {refused}, which no driving log or submission needs; nothing of it was run, "
            "do not open this file with another reader"
        ) from refused
    except _DAMAGE as error:
        raise DataError(f"{path}: damaged pickle ({error}); copy or download it again") from error


# What the interpreter's reader and numpy raise when a stream's opcodes do not fit each other.
_DAMAGE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


# Typed as Any: its methods are stable since Python 2, but no type stub lists them.
_PurePythonPickler: Any = pickle._Pickler


class _DevkitPickler(_PurePythonPickler):
    """Writes stand-ins and arrays under the global names that the devkit and the numpy 1 it pins know.

    The compiled pickler would insist on importing the devkit.
    """

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if isinstance(obj, type) and issubclass(obj, DevkitObject):
            global_name = obj.global_name
        else:
            module = getattr(obj, "__module__", None) or ""
            if not module.startswith("numpy._core."):
                super().save_global(obj, name)
                return
            global_name = f"{module.replace('numpy._core.', 'numpy.core.', 1)}.{obj.__qualname__}"
        module, _, class_name = global_name.rpartition(".")
        self.save(module)
        self.save(class_name)
        self.write(pickle.STACK_GLOBAL)
        self.memoize(obj)

    def reducer_override(self, obj: Any) -> Any:
        return obj.view(np.ndarray).__reduce__() if isinstance(obj, _Array) else NotImplemented

    # The pure-Python pickler dispatches classes and functions by table, not by method.
    dispatch: ClassVar[dict[Any, Any]] = {
        **_PurePythonPickler.dispatch,
        FunctionType: save_global,
    }


def write_pickle(path: Path, content: Any) -> None:
    """Write plain containers, arrays and `devkit_object`s so that the official devkit can read them.

    The file appears under its name only when it is whole.
    """
    buffer = io.BytesIO()
    _DevkitPickler(buffer, protocol=4).dump(content)
    write_bytes(path, buffer.getvalue())
