"""docs/operating.md says what is so: commands run or parse, settings are valid, tables name what there is."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from dags.factory import project_dags
from dags.project import DEFAULTS
from feature_store.commits import StepInfo
from pipelines.cli import VERBS, main, parser
from pipelines.config import parse_config
from pipelines.context import RunContext
from pipelines.ingest import EXAMPLES, LABELS
from tests.pipelines import loop_world

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operating.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
LINES = [line.split("#")[0].strip() for kind, block in BLOCKS if not kind for line in block.splitlines()]
COMMANDS = [line for line in LINES if line]
INLINE = [re.sub(r"\s+", " ", code) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", PAGE)]
LOOPFM = [c for c in [*COMMANDS, *INLINE] if c.startswith("loopfm ")]
EXAMPLE = {"PART": "2026-01-05", "NAME": "feed", "ID": "fm-1", "NEW": "fm-2", "OLD": "fm-1", "VERSION": "3"}


def filled(command: str, conf: Path) -> list[str]:
    """The words after ``loopfm`` with the page's placeholders filled in."""
    words = [EXAMPLE.get(word, word) for word in shlex.split(command)[1:]]
    return [str(conf) if word == "CONF" or word.startswith("conf/") else word for word in words]


def test_the_page_has_commands_of_every_kind() -> None:
    assert {command.split()[0] for command in COMMANDS} == {"make", "loopfm"}
    assert {kind for kind, _ in BLOCKS} == {"yaml", "", "text"}
    assert len(LOOPFM) >= 10


@pytest.mark.parametrize("command", sorted({c for c in [*COMMANDS, *INLINE] if c.startswith("make ")}))
def test_make_knows_the_target(command: str) -> None:
    words = shlex.split(command)
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pipelines.orchestration" in done.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make airflow")])
def test_airflow_knows_the_command(command: str) -> None:
    from airflow.cli.cli_parser import get_parser

    arguments = next(word for word in shlex.split(command) if word.startswith("ARGS=")).removeprefix("ARGS=")
    parsed = get_parser().parse_args(shlex.split(arguments))
    assert parsed.dag_id in project_dags(str(ROOT / "conf/demo.yaml"))


@pytest.mark.parametrize("command", sorted(set(LOOPFM)))
def test_loopfm_knows_the_verb_and_its_options(command: str, project_file: Path) -> None:
    words = filled(command, project_file)
    assert words[0] in VERBS
    if len(words) > 1:
        assert parser().parse_args(words).verb == words[0]


def test_the_backfill_of_the_page_plans_on_a_real_project(
    project_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = next(c for c in COMMANDS if c.startswith("loopfm backfill"))
    assert main([*filled(command, project_file), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "missing: never written" in shown
    assert re.search(r"about [\d,]+ rows of examples in \d+ chunks, about [\d.]+ min", shown)


def test_status_and_plan_name_a_failure_with_its_reason(project_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = RunContext.load(project_file)
    for step in (LABELS, EXAMPLES):
        info: StepInfo = step.info(context)
        attempt = context.store.begin(step.table, {}, ["2026-01-02"], info, {})
        context.store.fail(attempt, "BadDataError: 1 of 3 files cannot be read")
    for verb in (["status"], ["plan", "--from", "2026-01-01", "--to", "2026-01-08"]):
        assert main([verb[0], str(project_file), *verb[1:]]) == 0
        assert "2026-01-02 (1): failed: BadDataError: 1 of 3 files cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize("block", [block for kind, block in BLOCKS if kind == "yaml"])
def test_settings_of_the_page_are_valid(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = loop_world.raw_settings() | yaml.safe_load(block)
    assert parse_config(raw, "operating.md").schedule.catchup


def test_the_table_of_dags_names_those_that_there_are(project_file: Path) -> None:
    named = set(re.findall(r"^\| `PROJECT_(\w+)` \|", PAGE, re.MULTILINE))
    made = {dag.removeprefix("small_") for dag in project_dags(str(project_file))}
    assert named == {re.sub("_(feed|shop)$", "_VERTICAL", dag) for dag in made}


def test_the_table_of_alarms_names_those_that_there_are() -> None:
    table = PAGE[PAGE.index("## Alarms") :]
    source = (ROOT / "pipelines/live.py").read_text()
    kinds = set(re.findall(r'Alarm\("(\w+)"', source))
    assert kinds <= set(re.findall(r"^\| (\w+) \|", table, re.MULTILINE))
    assert len(kinds) == 4


def test_lost_processes_are_tried_again_twice() -> None:
    assert "tried again, twice" in PAGE
    assert DEFAULTS["retries"] == 2
