"""The command line's help says what is so, and each of its examples can be given as it stands."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from pipelines.cli import VERBS, main, parser
from pipelines.cli_examples import EXAMPLES
from tests.pipelines import loop_world


def help_of(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        parser().parse_args([verb, "--help"])
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LOOPFM_HOME", str(tmp_path / "home"))
    path = tmp_path / "project.yaml"
    path.write_text(yaml.safe_dump(loop_world.raw_settings()))
    return str(path)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example_that_parses(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"Example: loopfm {verb} {EXAMPLES[verb]} Settings:" in help_of(verb, capsys)
    assert parser().parse_args([verb, *shlex.split(EXAMPLES[verb])]).verb == verb


def test_there_is_no_example_of_another_verb() -> None:
    assert set(EXAMPLES) == set(VERBS)


def test_segments_of_raw_tokens_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert "or raw: tokens without vectors" in help_of("segments", capsys)
    assert "or raw" not in help_of("infer", capsys)


@pytest.mark.parametrize("verb", [["train-fm"], ["train-vm", "--vertical", "feed"]])
def test_a_training_names_the_ends_that_its_windows_lack(
    verb: list[str], project: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from feature_store.spaces import SpaceRecord
    from pipelines.context import RunContext

    RunContext.load(project).spaces.add(SpaceRecord("fm-1", "in-1", 0, 0, ["feed", "shop"], 16, 4, [], "", "", ""))
    assert "the data's" not in help_of(verb[0], capsys)
    assert main([verb[0], project, *verb[1:], "--from", "2026-01-01"]) == 1
    said = "got ['--from']; give --until, or all of ['--from', '--to', '--validate-from']"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--to", "2026-01-02"], ["--record"]])
def test_a_check_of_the_whole_source_takes_no_end_and_records_nothing(
    given: list[str], project: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", project, *given]) == 1
    said = f"{given[0]}: got no --from; give it too, or leave {given[0]} out to read the whole source"
    assert said in capsys.readouterr().err
