"""Settings chosen on validation: the file, what benchmarks take of it, and the command at small size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from benchmarks import choose
from benchmarks.choose import best_of
from benchmarks.chosen import FAMILIES, Choice, Chosen, read_chosen, write_chosen
from benchmarks.experiments import CellSettings, WorldSettings
from benchmarks.harness import CONF, BenchmarkError, Report, load_settings
from benchmarks.projects import REPOSITORY, ProjectSettings
from pipelines.config import Arm

CHOSEN = Chosen(
    project="conf/demo.yaml",
    seeds=1,
    families={
        "loopfm": Choice(
            chosen="wide",
            changes={"vm.base.units": [9], "vm.base.dropout": 0.1},
            validation_ne={"project": [0.91], "wide": [0.9]},
        )
    },
)


def test_every_arm_has_a_family() -> None:
    assert set(FAMILIES) == set(get_args(Arm))


def test_the_file_says_what_was_chosen_and_what_against(tmp_path: Path) -> None:
    write_chosen(tmp_path / "chosen.yaml", CHOSEN)
    assert read_chosen(tmp_path / "chosen.yaml") == CHOSEN
    with pytest.raises(BenchmarkError, match=r"no file .*other.yaml; python -m benchmarks.choose writes it"):
        read_chosen(tmp_path / "other.yaml")


def test_the_lowest_mean_is_chosen() -> None:
    assert best_of({"a": [3.0, 5.0], "b": [4.0, 3.0], "c": [3.5, 3.5]}) == "b"


def test_cells_start_from_what_was_chosen_for_their_arm(tmp_path: Path) -> None:
    write_chosen(tmp_path / "chosen.yaml", CHOSEN)
    file = os.path.relpath(tmp_path / "chosen.yaml", REPOSITORY)
    world = WorldSettings(project=ProjectSettings(base="conf/demo.yaml"), chosen=file)
    kd = world.cell(CellSettings(arm="loopfm_kd", changes={"vm.base.dropout": 0.3}))
    assert kd.changes == {"vm.base.units": [9], "vm.base.dropout": 0.3}
    assert world.cell(CellSettings(arm="base")).changes == {}


def test_an_arm_of_another_family_is_refused() -> None:
    settings = load_settings(choose.SETTINGS, CONF / "choose_short.yaml")
    wrong = settings.model_copy(update={"arms": {"base": "base", "loopfm": "control"}})
    with pytest.raises(BenchmarkError, match=r"arms\.loopfm: got control; allowed: an arm of that family"):
        choose.body(wrong, Report("choose"), None)  # type: ignore[arg-type]


def test_control_and_loopfm_have_the_same_candidates() -> None:
    settings = load_settings(choose.SETTINGS, CONF / "choose.yaml")
    assert settings.families["control"] == settings.families["loopfm"]
    for candidates in [*settings.families.values(), settings.fm]:
        for changes in candidates.values():
            settings.world.project.load(changes)


@pytest.mark.parametrize("path", sorted((CONF / "chosen").glob("*.yaml")), ids=lambda path: path.stem)
def test_what_was_chosen_fits_its_project_and_is_the_best_of_its_file(path: Path) -> None:
    chosen = read_chosen(path)
    for choice in chosen.families.values():
        assert choice.chosen == best_of(choice.validation_ne)
        assert {len(by_seed) for by_seed in choice.validation_ne.values()} == {chosen.seeds}
        ProjectSettings(base=chosen.project).load(choice.changes)


@pytest.mark.slow
def test_the_command_trains_all_candidates_and_writes_the_best(tmp_path: Path) -> None:
    file = REPOSITORY / ".cache" / "chosen_short.yaml"
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    conf = str(CONF / "choose_short.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.choose", "--conf", conf, "--out", str(tmp_path / "out")],
        cwd=REPOSITORY, env={**os.environ, "LOOPFM_HOME": str(tmp_path / "home")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    written = read_chosen(file)
    assert written.families["loopfm"].chosen == "newest"
    assert set(written.families["base"].validation_ne) == {"project", "slow"}
    assert written.fm is not None
    assert set(written.fm.validation_ne) == {"project", "one_epoch"}
    assert "RESULT loopfm_newest_validation_ne" in done.stdout
    assert "| loopfm | newest |" in (tmp_path / "out" / "choose.md").read_text()
    file.unlink()
