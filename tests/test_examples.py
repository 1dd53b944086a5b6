"""The examples in docstrings and documents run, and say what they say."""

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
WITH_EXAMPLES = sorted(path for path in (REPOSITORY / "irlvla").rglob("*.py") if ">>>" in path.read_text("utf-8"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
IN_DOCUMENTS = [
    pytest.param(code, id=f"{path.relative_to(REPOSITORY)}-{number}")
    for path in sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
    for number, code in enumerate(BLOCK.findall(path.read_text("utf-8")), start=1)
]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_examples_in_docstrings_say_what_comes_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    module = importlib.import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
    failed, tried = doctest.testmod(module, extraglobs={"np": np, "Path": Path})
    assert tried > 0
    assert failed == 0


@pytest.mark.parametrize("code", IN_DOCUMENTS)
def test_python_in_documents_runs(code: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    # What a line is said to print stands behind it.
    said = re.findall(r"^\s*print\(.*\)  # (.+)$", code, re.MULTILINE)
    assert not said or done.stdout.splitlines() == said
