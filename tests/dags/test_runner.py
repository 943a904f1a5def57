"""How a task's end is read: bad data is final, lost processes and newer attempts are worth another try."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from dags.runner import MlflowRunLink, ReportLink, VerbOperator, _raise, part_of

TI = SimpleNamespace(dag_id="small_data", run_id="manual", task_id="step", map_index=-1)


def context(part: str | None = None, **params: Any) -> dict[str, Any]:
    return {"ti": TI, "dag_run": SimpleNamespace(partition_key=part, run_after=None), "params": params}


def test_a_known_error_is_final_and_names_what_to_do(tmp_path: Path) -> None:
    step = VerbOperator(task_id="step", verb="status", conf=str(tmp_path / "absent.yaml"))
    with pytest.raises(AirflowFailException, match=r"absent.yaml: cannot be read .* give the path of a YAML file"):
        step.execute(context())


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("yesterday", "ContractError: got partition 'yesterday'; allowed"),
        (None, "StepError: the run names no partition"),
    ],
)
def test_a_run_of_no_partition_is_final_too(part: str | None, message: str, project_file: Path) -> None:
    step = VerbOperator(task_id="step", verb="ingest", conf=str(project_file), arguments=["--from", "{part}"])
    with pytest.raises(AirflowFailException, match=f"loopfm ingest: {message}"):
        step.execute(context(part))


@pytest.mark.parametrize("name", ["BadDataError", "StepError", "GateError", "ConfigError", "ModelConfigError"])
def test_bad_data_settings_and_verdicts_are_not_tried_again(name: str) -> None:
    with pytest.raises(AirflowFailException, match="second line"):
        _raise(1, ["[1.0 s] ingest ...", f"loopfm ingest: {name}: first line", "second line"], str)


@pytest.mark.parametrize(
    "name", ["SupersededError", "FeatureStoreError", "MissingInputError", "LostProcessError", "SparkStartError"]
)
def test_a_newer_attempt_a_lost_worker_or_an_input_being_written_is_tried_again(name: str) -> None:
    with pytest.raises(AirflowException) as found:
        _raise(1, [f"loopfm ingest: {name}: text"], str)
    assert not isinstance(found.value, AirflowFailException)


@pytest.mark.parametrize(("status", "text"), [(-9, r"signal 9 \(SIGKILL\)"), (1, "status 1"), (137, "status 137")])
def test_a_lost_process_is_tried_again(status: int, text: str) -> None:
    with pytest.raises(AirflowException, match=text) as found:
        _raise(status, ["Traceback ...", "Py4JNetworkError: Answer from Java side is empty"], str)
    assert not isinstance(found.value, AirflowFailException)


def test_the_verb_gets_the_partition_space_and_span_of_the_run(project_file: Path) -> None:
    step = VerbOperator(
        task_id="step", verb="infer", conf=str(project_file), arguments=["--from", "{part}"], space="fm-1", span=None
    )
    assert step._arguments(context("2026-01-05")) == ["--from", "2026-01-05", "--space", "fm-1"]
    step.span = ["2026-01-01", "2026-01-03"]
    step.arguments = []
    assert step._arguments(context()) == ["--from", "2026-01-01", "--to", "2026-01-03", "--space", "fm-1"]


def test_the_ledger_learns_which_run_wrote(project_file: Path, tmp_path: Path) -> None:
    environment = VerbOperator(task_id="step", verb="check", conf=str(project_file))._environment(context(), tmp_path)
    assert environment["LOOPFM_RUN_ID"] == "small_data/manual/step"
    ti = SimpleNamespace(**{**vars(TI), "map_index": 0})
    mapped = VerbOperator(task_id="step", verb="check", conf=str(project_file))._environment({"ti": ti}, tmp_path)
    assert mapped["LOOPFM_RUN_ID"] == "small_data/manual/step/0", "Airflow has no page of a mapped task without it"


def test_the_result_is_what_the_verb_says_it_did(project_file: Path) -> None:
    pushed: dict[str, Any] = {}
    ti = SimpleNamespace(**vars(TI), xcom_push=lambda key, value: pushed.update({key: value}))
    step = VerbOperator(
        task_id="plan", verb="backfill", conf=str(project_file), arguments=["--dry-run"], returns="chunks",
        span=("2026-01-01", "2026-01-03"),
    )  # fmt: skip
    assert step.execute({**context(), "ti": ti}) == [["2026-01-01", "2026-01-03"]]
    assert pushed["facts"]["rows"] == 9000


def test_links_lead_to_the_mlflow_run_and_the_report(project_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPFM_MLFLOW_URL", "http://mlflow:5000")
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://airflow:8080/below/")
    step = VerbOperator(task_id="step", verb="train-vm", conf=str(project_file))
    assert (MlflowRunLink().get_link(step, ti_key=None), ReportLink().get_link(step, ti_key=None)) == ("", "")
    step.facts = {"run_id": "abc", "experiment": "3", "report": "/tmp/report.html"}
    assert MlflowRunLink().get_link(step, ti_key=None) == "http://mlflow:5000/#/experiments/3/runs/abc"
    assert ReportLink().get_link(step, ti_key=None) == "http://airflow:8080/below/loopfm/report/small"


def test_trainings_use_the_newest_closed_partition(project_file: Path) -> None:
    from datetime import UTC, datetime

    run = {"dag_run": SimpleNamespace(partition_key=None, run_after=datetime(2026, 1, 9, 1, tzinfo=UTC)), "params": {}}
    assert part_of(str(project_file), run, newest_closed=True) == "2026-01-08"
    assert part_of(str(project_file), {**run, "params": {"part": "2026-01-03"}}, newest_closed=True) == "2026-01-03"


def test_a_hand_over_uses_what_has_closed_when_it_trains(project_file: Path) -> None:
    from datetime import UTC, datetime

    from dags.fm_dag import fm_dag
    from dags.project import Project

    run = {"dag_run": SimpleNamespace(partition_key=None, run_after=datetime(2026, 1, 9, 1, tzinfo=UTC)), "params": {}}
    dag = fm_dag(Project.load(str(project_file)))
    before = datetime.now(UTC) - timedelta(days=1)
    found = {task: dag.get_task(task)._arguments(run) for task in ("train_fm", "feed.train_vm")}
    until = {task: arguments[arguments.index("--until") + 1] for task, arguments in found.items()}
    assert until["train_fm"] == "2026-01-08"
    assert until["feed.train_vm"] in {f"{before:%Y-%m-%d}", f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"}


def test_a_message_longer_than_a_screen_is_read_from_its_beginning(
    project_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = VerbOperator(task_id="step", verb="ingest", conf=str(project_file))
    said = "loopfm ingest: ValidationError: got columns"
    code = f"print({said!r}); [print(n, 'int64') for n in range(300)]; raise SystemExit(1)"
    monkeypatch.setattr(step, "_arguments", lambda context: [])
    run = step._run
    monkeypatch.setattr(step, "_run", lambda command, environment: run([sys.executable, "-c", code], environment))
    with pytest.raises(AirflowFailException, match=r"ValidationError: got columns\n0 int64"):
        step.execute(context())
