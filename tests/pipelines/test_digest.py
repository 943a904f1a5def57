"""What a training is known by changes with the code that trains."""

from __future__ import annotations

from pathlib import Path

from pipelines import train_vm
from pipelines.digest import folder_code, models_code


def test_code_is_known_by_its_files_and_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.py").write_text("x = 1\n")
    (tmp_path / "notes.txt").write_text("not code")
    before = folder_code(tmp_path)
    (tmp_path / "notes.txt").write_text("other")
    assert folder_code(tmp_path) == before
    (tmp_path / "inner" / "a.py").write_text("x = 2\n")
    changed = folder_code(tmp_path)
    (tmp_path / "inner" / "a.py").rename(tmp_path / "inner" / "b.py")
    assert len({before, changed, folder_code(tmp_path)}) == 3


def test_models_are_known_by_their_code() -> None:
    assert models_code() == folder_code(Path(train_vm.__file__).parents[1] / "models")
