"""Checkpoints: a folder with config.json and model.safetensors; nothing in it is ever unpickled."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from irlvla.errors import ConfigError, DataError
from irlvla.files import write_bytes, write_text

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class StoredModel:
    """A model folder that has been read, except for its weights."""

    folder: Path
    settings: dict[str, Any]
    """As given to `save_checkpoint`."""
    texts: dict[str, str]
    """Content of the further text files, by name."""

    def load_weights(self, module: nn.Module) -> None:
        """Put the stored weights into a module built from `settings`.

        Raises:
            ConfigError: the weights do not fit the module.
            DataError: the file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder / WEIGHTS_FILE
        if not path.is_file():
            raise DataError(f"no {WEIGHTS_FILE} in {self.folder}; only safetensors checkpoints are read")
        try:
            weights = load_file(path)
        except SafetensorError as error:
            raise DataError(f"{path} is damaged ({error}); restore it or train again") from error
        expected = module.state_dict()
        wrong = set(expected) ^ set(weights)
        wrong |= {name for name in set(expected) & set(weights) if expected[name].shape != weights[name].shape}
        if wrong:
            raise ConfigError(f"{path} does not fit its {CONFIG_FILE}: {', '.join(sorted(wrong)[:5])}")
        module.load_state_dict(weights)


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

    hashes = {}
    for name, text in (texts or {}).items():
        write_text(folder / name, text)
        hashes[name] = hashlib.sha256(text.encode()).hexdigest()
    # Tied weights share memory, which safetensors refuses; clones do not.
    apart = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    write_bytes(folder / WEIGHTS_FILE, save(apart))
    content = {"kind": kind, "format": FORMAT, "model": dict(settings), "sha256": hashes}
    write_text(folder / CONFIG_FILE, json.dumps(content, indent=2))


def load_checkpoint(folder: Path, kind: str) -> StoredModel:
    """Read a model folder, all but its weights.

    Raises:
        ConfigError: the folder holds another kind or format of model.
        DataError: a file is missing or damaged.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise DataError(f"no {CONFIG_FILE} in {folder}; is this a model folder of a finished run?")
    try:
        content = json.loads(path.read_bytes())
        found, version, settings, hashes = (content[key] for key in ("kind", "format", "model", "sha256"))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); restore it or train again") from error
    if found != kind:
        raise ConfigError(f"{folder} holds a {found}, not a {kind}")
    if version != FORMAT:
        raise ConfigError(f"{folder} has checkpoint format {version}; this program reads format {FORMAT}")
    texts = {}
    for name, sha256 in hashes.items():
        try:
            stored = (folder / name).read_bytes()
        except OSError as error:
            raise DataError(f"{folder / name} cannot be read ({error.strerror}); restore it or train again") from error
        if hashlib.sha256(stored).hexdigest() != sha256:
            raise DataError(f"{folder / name} is damaged or was edited; restore it or train again")
        texts[name] = stored.decode()
    return StoredModel(folder, settings, texts)
