"""Verbs that act on a finished run, by their command lines: what they write, move and print."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from models.fm_launch import run_request
from models.fm_train import FmTrainResult
from pipelines.canary import CanaryResult
from pipelines.cli import main
from pipelines.context import RunContext
from pipelines.registry import CHAMPION, ROLLBACK
from pipelines.train_vm import VM_ARTIFACTS
from pipelines.windows import RunWindows
from tests.pipelines import loop_world
from tests.pipelines.conftest import Loop

PART, VERTICAL = "2026-01-07", "feed"
CANARY = CanaryResult({"features": 0}, {"leaked_label": 0.2512}, -0.00021, True)


@pytest.fixture
def conf(copied: RunContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The YAML file of the copied run, in an environment that leads to its tables."""
    monkeypatch.setenv("LOOPFM_HOME", copied.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "project.yaml"
    path.write_text(yaml.safe_dump(loop_world.raw_settings()))
    return str(path)


def test_exported_histories_and_a_scored_partition_are_written_where_the_command_says(
    conf: str, copied: RunContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space, lag = copied.space().space_id, copied.dataset.lag
    instant = datetime.fromtimestamp((copied.dataset.clock.start(PART) + lag) / 1000, UTC).replace(tzinfo=None)
    folder, out = tmp_path / "histories", tmp_path / "p.parquet"
    assert main(["export-histories", conf, "--as-of", instant.isoformat(), "--out", str(folder)]) == 0
    printed = capsys.readouterr().out.splitlines()
    files = {f"{of}/{key}": folder / of / f"{key}.parquet" for of in (space, "raw") for key in ("user", "item")}
    assert sorted(printed) == sorted(
        f"{name}: {pq.read_table(path).num_rows} histories" for name, path in files.items()
    )

    command = ["predict", conf, "--vertical", VERTICAL, "--part", PART, "--histories", str(folder), "--out", str(out)]
    assert main(command) == 0
    scored = pq.read_table(out)
    assert f"{scored.num_rows} rows scored, written to {out}" in capsys.readouterr().out
    assert scored.column_names == ["example_id", "p"]
    assert scored.num_rows > 1000
    assert pc.min(scored["p"]).as_py() > 0
    assert pc.max(scored["p"]).as_py() < 1

    assert main([*command, "--version", "99"]) == 1
    assert "no version 99; there are" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["2026-01-07T01:00", "2026-01-07T03:00+02:00", "2026-01-07T01:00Z", "1767747600000"])
def test_an_instant_is_iso_time_in_utc_or_its_own_zone_or_milliseconds(
    given: str, conf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("pipelines.predict.export", lambda context, *of: asked.append(of) or {})
    assert main(["export-histories", conf, "--as-of", given, "--out", "histories"]) == 0
    [(space, instant, out)] = asked
    assert (space.space_id[:3], instant, out) == ("fm-", 1767747600000, Path("histories"))


def test_another_instant_is_refused(conf: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export-histories", conf, "--as-of", "yesterday", "--out", "histories"]) == 1
    said = "--as-of: got 'yesterday'; allowed: ISO time such as 2026-01-09T01:00, or milliseconds"
    assert said in capsys.readouterr().err


def test_rollback_gives_the_champion_before_back(
    conf: str, copied: RunContext, loop: Loop, capsys: pytest.CaptureFixture[str]
) -> None:
    name, registry = copied.vm_name(VERTICAL), copied.registry
    command = ["rollback", conf, "--vertical", VERTICAL]
    assert main(command) == 1
    assert f"{name}: no version to roll back to" in capsys.readouterr().err
    base = next(vm for vm in loop.result.trained if (vm.vertical, vm.arm) == (VERTICAL, "base"))
    registry.set_alias(name, CHAMPION, registry.register(name, base.run_id, VM_ARTIFACTS, {}).version)
    registry.set_alias(name, ROLLBACK, "1")
    assert main(command) == 0
    assert "champion is version 1\n" in capsys.readouterr().out
    found = [registry.by_alias(name, alias) for alias in (CHAMPION, ROLLBACK)]
    assert [model and model.version for model in found] == ["1", "2"]


def test_align_says_where_no_champion_reads_another_space(
    conf: str, copied: RunContext, capsys: pytest.CaptureFixture[str]
) -> None:
    space = copied.space().space_id
    assert main(["align", conf, "--from-space", space]) == 0
    said = f"no champion reads another space than {space}: there is nothing to align\n"
    assert capsys.readouterr().out == said


def test_a_canary_prints_what_its_proofs_found(
    conf: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[RunWindows] = []
    monkeypatch.setattr("pipelines.canary.canary", lambda context, windows: asked.append(windows) or CANARY)
    assert main(["canary", conf]) == 0
    assert (asked[0].parts[0], asked[0].test) == (loop_world.FIRST, [PART])
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert printed == [
        "non-interference features 0 rows changed",
        "power leaked_label +0.2512 AUC",
        "shuffled histories of other keys gain -0.0002 NE over the control",
    ]


def test_a_run_ends_with_the_report_and_the_line_that_opens_mlflow(
    conf: str, copied: RunContext, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("pipelines.run.run_loop", lambda context, windows, *of: asked.append(of))
    assert main(["run", conf, "--arms", "base", "loopfm", "--seeds", "2"]) == 0
    assert asked == [(["base", "loopfm"], 2)]
    report, mlflow = capsys.readouterr().out.splitlines()[-2:]
    assert Path(report.removeprefix("report: ")).read_text().startswith("<!")
    program, *arguments = mlflow.removeprefix("MLflow: ").split(" ")
    assert Path(program).is_file()
    assert arguments == ["ui", "--backend-store-uri", copied.registry.tracking_uri]


def test_training_processes_are_asked_for_by_number_and_their_fm_opens_a_space(
    conf: str, copied: RunContext, loop: Loop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[int, bool]] = []

    def launch(folder: Path, processes: int, report: Any, resume: bool) -> FmTrainResult:
        asked.append((processes, resume))
        return run_request(folder, report, resume)

    monkeypatch.setattr("pipelines.train_fm.launch", launch)
    windows, first = loop.result.windows, loop.result.spaces[0]
    window = ["--from", windows.fm_train[0], "--to", windows.fm_validation[-1]]
    command = ["train-fm", conf, *window, "--validate-from", windows.fm_validation[0]]
    assert main([*command, "--seed", "5", "--processes", "2"]) == 0
    assert asked == [(2, True)]
    space = next(space for space in copied.spaces.all() if space.space_id != first.space_id)
    printed = f"space {space.space_id}, run {space.run_id}, fm_train_cutoff {space.fm_train_cutoff}\n"
    assert printed in capsys.readouterr().out
    assert space.fm_train_cutoff == first.fm_train_cutoff
    assert len(copied.registry.curve(space.run_id, "epoch_validation_ne")) == 1
    assert main([*command, "--processes", "2"]) == 0, "the first run's training, which any number of processes gives"
    assert f"space {first.space_id}," in capsys.readouterr().out
    assert len(asked) == 1
