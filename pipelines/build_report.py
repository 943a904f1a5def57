"""The report of a project, rebuilt from its state alone: table evaluations, the ledger and MLflow."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.context import RunContext
from pipelines.digest import digest
from pipelines.errors import StepError
from pipelines.maturity import label_states
from pipelines.registry import CHAMPION, GATE_TAG
from pipelines.report import write_report as write_html
from pipelines.report_data import PartRow, ReportData, VerticalReport, Window, figures_by_vertical
from pipelines.summary import print_summary

REPORT_FILE = "report.html"


def rebuild_report(context: RunContext, out: Path | None = None) -> Path:
    """Write the HTML report of the newest comparison, print its summary and where it lies.

    Raises:
        StepError: nothing was evaluated yet.
    """
    data = report_data(context)
    print_summary(data)
    path = write_html(data, out or Path(context.scratch.parent) / REPORT_FILE)
    print(f"report: {path}")
    mlflow = Path(sys.executable).parent / "mlflow"
    print(f"MLflow: {mlflow} ui --backend-store-uri {context.registry.tracking_uri}")
    return path


def report_data(context: RunContext) -> ReportData:
    """All that the report shows."""
    evaluations = _newest_comparisons(context)
    figures = figures_by_vertical(evaluations)
    seeds = max(1, len(set(evaluations["seed"].drop_null().to_pylist())))
    first, last = _extent(evaluations)
    verticals = [
        VerticalReport(name, figures[name], *_gate_and_model(context, name))
        for name in context.dataset.heads
        if name in figures
    ]
    run_ids = [run for run in evaluations["run_id"].to_pylist() if run]
    tags = context.registry.run_tags(run_ids[0]) if run_ids else {}
    space_id = str(evaluations["space_id"][0].as_py())
    return ReportData(
        project=context.config.name,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        seeds=seeds,
        windows=[*_windows(tags), Window("test", first, last)],
        verticals=verticals,
        fm=_fm_facts(context, space_id),
        parts=_parts(context),
        quarantine=_quarantine(context),
        lineage=_lineage(context, space_id, tags),
    )


def has_comparison(context: RunContext) -> bool:
    """Whether any arms were compared yet, so that there is something to report."""
    if not context.store.exists("evaluations"):
        return False
    arms = context.store.arrow("evaluations", context.store.newest("evaluations"), {}, None, ["arm"])
    return bool(pc.any(pc.equal(arms["arm"], "base")).as_py())


def _newest_comparisons(context: RunContext) -> pa.Table:
    """Rows of the newest comparison of arms of each vertical."""
    if not context.store.exists("evaluations"):
        raise StepError(f"{context.origin}: nothing was evaluated yet; run `loopfm run {context.origin}` first")
    rows = context.store.arrow("evaluations", context.store.newest("evaluations"), {}, None)
    rows = rows.filter(pc.is_in(rows["arm"], pa.array(["base", "fm"])))
    if not len(rows):
        raise StepError(f"{context.origin}: no comparison of arms yet; run `loopfm run {context.origin}` first")
    newest = rows.group_by("vertical").aggregate([("computed_at", "max")])
    all_rows = context.store.arrow("evaluations", context.store.newest("evaluations"), {}, None)
    keys = pa.table({"vertical": newest["vertical"], "computed_at": newest["computed_at_max"]})
    return all_rows.join(keys, ["vertical", "computed_at"], join_type="inner").combine_chunks()


def _extent(evaluations: pa.Table) -> tuple[str, str]:
    return str(pc.min(evaluations["first_part"]).as_py()), str(pc.max(evaluations["last_part"]).as_py())


def _windows(tags: dict[str, str]) -> list[Window]:
    found = []
    for name in ("train", "validation"):
        if f"loopfm.{name}" in tags:
            first, last = tags[f"loopfm.{name}"].split("..")
            found.append(Window(f"VM {name}", first, last))
    return found


def _gate_and_model(context: RunContext, vertical: str) -> tuple[str | None, str | None]:
    name = context.vm_name(vertical)
    versions = context.registry.versions(name)
    if not versions:
        return None, None
    newest = context.registry.by_version(name, max(versions, key=int))
    champion = context.registry.by_alias(name, CHAMPION)
    verdict = newest.tags.get(GATE_TAG)
    reasons = newest.tags.get("loopfm.gate_reasons", "")
    alias = " (champion)" if champion is not None and champion.version == newest.version else ""
    return (f"{verdict}: {reasons}" if verdict else None), f"{name} version {newest.version}{alias}"


def _fm_facts(context: RunContext, space_id: str) -> dict[str, str]:
    space = context.spaces.get(space_id)
    metrics = context.registry.run_metrics(space.run_id)
    facts = {
        "space": space_id,
        "captured layers": ", ".join(space.captures),
        "vector": f"{space.dim} x {space.bits} bit",
    }
    shown = {name: f"{value:.4f}" for name, value in sorted(metrics.items()) if name.startswith("validation_")}
    return facts | {name.replace("_", " "): value for name, value in shown.items()}


def _parts(context: RunContext) -> list[PartRow]:
    entries = {part: e for part, e in context.store.ledger.coverage("examples", {}).items() if e.state == "done"}
    parts = sorted(entries)
    states = {vertical: label_states(context, vertical, parts) for vertical in context.dataset.heads}
    rows = []
    for part in parts:
        rates = {
            vertical: found[part].positives / found[part].rows
            for vertical, found in states.items()
            if part in found and found[part].rows
        }
        rows.append(PartRow(part, entries[part].rows, entries[part].rejected, rates))
    return rows


def _quarantine(context: RunContext) -> dict[str, int]:
    if not context.store.exists("quarantine"):
        return {}
    reasons = context.store.arrow("quarantine", context.store.newest("quarantine"), {}, None, ["reason"])
    counts = reasons.group_by("reason").aggregate([("reason", "count")])
    return dict(zip(counts["reason"].to_pylist(), counts["reason_count"].to_pylist(), strict=True))


def _lineage(context: RunContext, space_id: str, tags: dict[str, str]) -> dict[str, str]:
    versions = {k.removeprefix("loopfm.version."): v for k, v in tags.items() if k.startswith("loopfm.version.")}
    return {
        "settings": f"{context.origin} (digest {digest(context.config)})",
        "commit": tags.get("loopfm.commit", context.commit),
        "space": space_id,
        "FM run": context.spaces.get(space_id).run_id,
        "Delta versions": ", ".join(f"{table} {version}" for table, version in sorted(versions.items())),
        "tables": f"{context.folder}/tables",
    }
