"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def golden() -> Path:
    """Data in NAVSIM's format with the official devkit's own figures: `alpha/` and `beta/` are data roots."""
    return REPOSITORY / "tests" / "golden"


@pytest.fixture(scope="session")
def shared_real() -> Path:
    """Artefacts of the real world; they are never part of the project, so tests that need them skip without."""
    shared = Path(os.environ.get("IRLVLA_SHARED", REPOSITORY.parent / "shared"))
    if not (shared / "real").is_dir():
        pytest.skip("real-world artefacts are not here; set IRLVLA_SHARED to the folder that holds real/")
    return shared / "real"
