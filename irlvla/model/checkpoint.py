"""Checkpoints: a folder with config.json and model.safetensors; nothing in it is ever unpickled."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from irlvla.errors import ConfigError, DataError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = 1


def save_checkpoint(
    folder: Path,
    kind: str,
    settings: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a model folder; each file appears whole or not at all, config.json last.

    Args:
        folder: made if missing.
        kind: model kind stored in config.json and demanded on loading.
        settings: plain JSON values.
        weights: the module's state.
        texts: further text files, by name.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (texts or {}).items():
        _write_whole(folder / name, text.encode())
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    _write_whole(folder / WEIGHTS_FILE, save(contiguous))
    content = {"kind": kind, "format": FORMAT, "model": dict(settings)}
    _write_whole(folder / CONFIG_FILE, json.dumps(content, indent=2).encode())


def load_checkpoint(folder: Path, kind: str) -> tuple[dict[str, Any], Callable[[nn.Module], None]]:
    """Read a model folder.

    Returns:
        the stored settings, and a function that loads the stored weights into a module built from them.
    Raises:
        ConfigError: the folder holds another kind or format of model, or weights that do not fit the module.
        DataError: a file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / CONFIG_FILE
    if not path.is_file():
        raise DataError(f"no {CONFIG_FILE} in {folder}; is this a model folder of a finished run?")
    try:
        content = json.loads(path.read_text())
        found, version, settings = content["kind"], content["format"], content["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); restore it or train again") from error
    if found != kind:
        raise ConfigError(f"{folder} holds a {found}, not a {kind}")
    if version != FORMAT:
        raise ConfigError(f"{folder} has checkpoint format {version}; this program reads format {FORMAT}")

    def load(module: nn.Module) -> None:
        weights_path = folder / WEIGHTS_FILE
        if not weights_path.is_file():
            raise DataError(f"no {WEIGHTS_FILE} in {folder}; only safetensors checkpoints are read")
        try:
            weights = load_file(weights_path)
        except SafetensorError as error:
            raise DataError(f"{weights_path} is damaged ({error}); restore it or train again") from error
        expected = module.state_dict()
        wrong = sorted(
            set(expected) ^ set(weights)
            | {name for name in set(expected) & set(weights) if expected[name].shape != weights[name].shape}
        )
        if wrong:
            raise ConfigError(f"{weights_path} does not fit its {CONFIG_FILE}: {', '.join(wrong[:5])}")
        module.load_state_dict(weights)

    return settings, load


def _write_whole(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
