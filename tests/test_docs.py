"""The documentation holds together: links, verbs, settings, the shop example."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli import VERBS
from pipelines.config import load_config

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = [p for d in ("pipelines", "models", "feature_store", "scripts") for p in (ROOT / d).rglob("*.py")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_nothing_is_left_open(page: Path) -> None:
    assert not re.search(r"\bTODO\b|\bTBD\b|\bFIXME\b", page.read_text())


def test_every_verb_is_explained() -> None:
    commands = (ROOT / "docs/commands.md").read_text()
    assert set(re.findall(r"^\| `([a-z-]+)` \|", commands, re.MULTILINE)) == set(VERBS)


def test_every_setting_of_the_environment_is_explained() -> None:
    used = {name for path in CODE for name in re.findall(r'_SETTING = "([A-Z_]+)"', path.read_text())}
    commands = (ROOT / "docs/commands.md").read_text()
    assert {"LOOPFM_HOME", "LOOPFM_DATA"} <= used
    assert used <= set(re.findall(r"^\| `([A-Z_]+)` \|", commands, re.MULTILINE))


def test_the_reference_of_settings_is_that_of_the_models() -> None:
    script = ROOT / "scripts/reference.py"
    done = subprocess.run([sys.executable, script, "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"docs/settings.md is stale: run `make reference`\n{done.stderr}"


def test_the_reference_names_nested_fields_with_kind_and_default() -> None:
    page = (ROOT / "docs/settings.md").read_text()
    assert re.search(r"^\| `lag` \| duration \| required \|", page, re.MULTILINE)
    own = "`package.module:Class`"
    kinds = rf"^\| `kinds` \| list of `mean`, `newest`, `decayed`, `attention` or {own} \| `\[mean, attention\]` \|"
    assert re.search(kinds, page, re.MULTILINE)


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("conf/*.yaml")) + sorted(ROOT.glob("docs/examples/*/*.yaml")), ids=str
)
def test_shipped_settings_are_valid(path: Path) -> None:
    assert load_config(path).name
