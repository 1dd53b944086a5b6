"""Machine code on disk belongs to the sources it was made from."""

from pathlib import Path

import numba

from irlvla.simulation.kernels import kernel_digest
from irlvla.simulation.polygons import orientation

KERNEL = "from irlvla.simulation.kernels import kernel\n\n\n@kernel\ndef twice(x):\n    return 2 * x\n"


def test_a_change_in_any_kernel_file_asks_for_new_machine_code(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(KERNEL, encoding="utf-8")
    (tmp_path / "b.py").write_text(KERNEL.replace("twice", "double"), encoding="utf-8")
    (tmp_path / "plain.py").write_text("x = 1\n", encoding="utf-8")
    before = kernel_digest([tmp_path])
    (tmp_path / "plain.py").write_text("x = 2\n", encoding="utf-8")
    assert kernel_digest([tmp_path]) == before
    (tmp_path / "b.py").write_text(KERNEL.replace("twice", "double").replace("2 *", "2.0 *"), encoding="utf-8")
    assert kernel_digest([tmp_path]) != before


def test_kernels_leave_numbas_own_settings_alone() -> None:
    assert "kernels-" not in str(numba.config.CACHE_DIR)
    assert orientation(0.0, 0.0, 1.0, 0.0, 0.5, 1.0) == 1
