"""Records: frozen groups of tensors that share their first axis, the scenes of a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Record:
    """Base of frozen dataclasses whose fields are tensors [B, ...] or tuples of B strings."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def _map(self, on_tensor: Any, on_words: Any = lambda words: words) -> Self:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: on_tensor(v) if isinstance(v, Tensor) else on_words(v) for k, v in values.items()})

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Move to a device; `dtype`, where given, applies to floating-point tensors only."""
        return self._map(lambda t: t.to(device, dtype if dtype is not None and t.is_floating_point() else None))

    def detach(self) -> Self:
        """The same values without gradient."""
        return self._map(lambda t: t.detach())

    def index_select(self, rows: Sequence[int] | Tensor | NDArray[np.int64]) -> Self:
        """The scenes of the given rows, in that order; rows may repeat."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        picked = index.tolist()
        return self._map(lambda t: t.index_select(0, index.to(t.device)), lambda words: tuple(words[i] for i in picked))

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Join batches scene-wise."""
        joined: dict[str, Any] = {}
        for f in fields(cls):
            values = [getattr(part, f.name) for part in parts]
            joined[f.name] = torch.cat(values) if isinstance(values[0], Tensor) else sum(values, ())
        return cls(**joined)

    def to_arrays(self, *, half: bool = False) -> dict[str, NDArray[Any]]:
        """Plain arrays for a cache on disk; with `half`, floating-point tensors as float16."""
        arrays: dict[str, NDArray[Any]] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                value = value.detach().cpu()
                arrays[f.name] = (value.half() if half and value.is_floating_point() else value).numpy()
            else:
                arrays[f.name] = np.array(value, dtype=np.str_)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of `to_arrays`; float16 becomes float32."""
        values: dict[str, Any] = {}
        for f in fields(cls):
            array = arrays[f.name]
            if array.dtype.kind == "U":
                values[f.name] = tuple(str(word) for word in array)
            else:
                tensor = torch.from_numpy(np.ascontiguousarray(array))
                values[f.name] = tensor.float() if tensor.dtype == torch.float16 else tensor
        return cls(**values)
