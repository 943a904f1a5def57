"""The layers of the code: kept, and a break is noticed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ["dags", "pipelines", "models", "feature_store", "search", "benchmarks"]


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([program, "--no-cache"], cwd=folder, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the packages that a test may break."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_looking_for_champions_imports_no_torch() -> None:
    code = "import sys; import pipelines.live; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_layers_hold() -> None:
    result = _lint(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("package", "line", "contract"),
    [
        ("feature_store", "import torch", "feature_store knows no torch"),
        ("models", "import pyspark", "models knows no Spark"),
        ("models", "import pipelines.config", "Layers"),
        ("search", "import feature_store.config", "search knows only models"),
    ],
)
def test_a_break_of_the_layers_is_noticed(copy: Path, package: str, line: str, contract: str) -> None:
    (copy / package / "breaks_the_layers.py").write_text(f"{line}\n")
    result = _lint(copy)
    assert result.returncode != 0
    broken = [text for text in result.stdout.splitlines() if text.endswith("BROKEN")]
    assert any(contract in text for text in broken), result.stdout


@pytest.mark.parametrize("library", ["torch", "pyspark", "mlflow", "pandas"])
def test_heavy_imports_at_module_level_are_refused_in_dags(copy: Path, library: str) -> None:
    (copy / "dags" / "heavy.py").write_text(f'"""A Dag."""\n\nimport {library}\n\n__all__ = ["{library}"]\n')
    program = Path(sys.executable).with_name("ruff")
    result = subprocess.run([program, "check", "--no-cache", "dags"], cwd=copy, capture_output=True, text=True)
    assert "TID253" in result.stdout
