"""The live champion on partitions whose labels have just become known, and what deserves an alarm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from feature_store.clocks import HOUR_MS
from feature_store.ledger import DONE, scope_text
from models.metrics import Scores
from models.metrics import evaluate as all_metrics
from pipelines.context import RunContext
from pipelines.maturity import label_states, mature, readable_parts
from pipelines.measure import ALL_ROWS, Figure
from pipelines.registry import CHAMPION, TRAINED_UNTIL, RegisteredModel

LIVE_ARM = "live"


@dataclass(frozen=True)
class LiveFigures:
    """Metrics of a vertical's champion on one partition that it had never seen."""

    vertical: str
    version: str
    part: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class Alarm:
    """Something that a person should look at: ``kind`` is lag, calibration, drift or quarantine."""

    kind: str
    part: str
    text: str


def score_champions(context: RunContext, part: str) -> list[LiveFigures]:
    """Score every champion on each partition after its training that is mature once ``part`` has closed and that it was
    not scored on before; the figures go to table evaluations as arm ``live``.
    """
    return [figures for vertical in context.dataset.heads for figures in _score_vertical(context, vertical, part)]


def alarms(context: RunContext, part: str, live: bool) -> list[Alarm]:
    """What is out of its band in the newest figures up to ``part``.

    Args:
        context: the project.
        part: the partition that a run has just made.
        live: the run follows the clock: publishing later than end + lag is a breach. Backfills are never late.
    """
    found = [*_lag_breach(context, part)] if live else []
    return [*found, *_quarantine(context, part), *_drift(context, part), *_calibration(context, part)]


def _score_vertical(context: RunContext, vertical: str, part: str) -> list[LiveFigures]:
    champion = context.registry.by_alias(context.vm_name(vertical), CHAMPION)
    if champion is None:
        context.progress(f"score: {vertical} has no champion yet")
        return []
    if not (due := _due(context, vertical, champion, part)):
        return []
    from pipelines.evaluate import registered_scores  # imports torch: seconds that most runs save

    found = []
    for own in due:
        scores = registered_scores(context, vertical, champion, [own])
        if len(scores):
            metrics = {n: v for n, v in all_metrics(scores).items() if v == v}
            _record(context, vertical, champion, own, scores, metrics)
            found.append(LiveFigures(vertical, champion.version, own, metrics))
            context.progress(f"score: {vertical} version {champion.version} on {own}: NE {metrics.get('ne', 0):.4f}")
    return found


def _due(context: RunContext, vertical: str, champion: RegisteredModel, part: str) -> list[str]:
    until, readable = champion.tags[TRAINED_UNTIL], readable_parts(context, champion.tags["loopfm.space"])
    parts = [own for own in readable if until < own <= part]
    if not parts:
        return []
    known = mature(label_states(context, vertical, parts), context.dataset.clock.end(part))
    scored = {row["first_part"] for row in _live_rows(context, vertical) if row["model_version"] == champion.version}
    return [p for p in known if p not in scored]


def _live_rows(context: RunContext, vertical: str) -> list[dict[str, object]]:
    if not context.store.exists("evaluations"):
        return []
    columns = ["vertical", "arm", "model_version", "first_part", "metric", "value"]
    rows = context.store.arrow("evaluations", context.store.newest("evaluations"), {}, None, columns)
    own = pc.and_(pc.equal(rows["arm"], LIVE_ARM), pc.equal(rows["vertical"], vertical))
    return list(rows.filter(own).to_pylist())


def _record(
    context: RunContext, vertical: str, champion: RegisteredModel, part: str, scores: Scores, metrics: dict[str, float]
) -> None:
    from pipelines.drift import centroid_drift
    from pipelines.evaluate import Evaluated, record

    space_id = champion.tags["loopfm.space"]
    drift = centroid_drift(context, context.spaces.get(space_id), part)
    shown = metrics if drift is None else metrics | {"drift": drift}
    figures = [Figure(LIVE_ARM, ALL_ROWS, name, value, len(scores)) for name, value in shown.items()]
    of = (LIVE_ARM, 0)
    evaluated = Evaluated(vertical, [part], space_id, {of: champion.run_id}, {of: champion.version})
    record(context, evaluated, figures, {LIVE_ARM: [scores]})


def _lag_breach(context: RunContext, part: str) -> list[Alarm]:
    due = context.dataset.clock.end(part) + context.dataset.lag
    found, rows = [], context.store.ledger.entries()
    for space in context.spaces.active():
        published = _first_published(rows, space.space_id, part)
        if published is not None and published > due:
            late = (published - due) / HOUR_MS
            text = f"features of space {space.space_id} were published {late:.1f} h after the declared lag"
            found.append(Alarm("lag", part, text))
    return found


def _first_published(rows: pa.Table, space_id: str, part: str) -> int | None:
    """When readers got features of a partition (epoch ms): a later attempt, such as of a cleared task, is no delay."""
    wanted = {"table": "features", "scope": scope_text({"space_id": space_id}), "part": part, "state": DONE}
    own = reduce(pc.and_, [pc.equal(rows[column], value) for column, value in wanted.items()])
    return min(rows.filter(own)["computed_at"].to_pylist(), default=None)


def _quarantine(context: RunContext, part: str) -> list[Alarm]:
    entry = context.store.ledger.coverage("examples", {}).get(part)
    if entry is None or not entry.rejected:
        return []
    share, limit = entry.rejected / (entry.rows + entry.rejected), context.config.schedule.max_quarantine
    if share <= limit:
        return []
    return [
        Alarm("quarantine", part, f"{entry.rejected} of {entry.rows + entry.rejected} rows ({share:.1%}) set aside")
    ]


def _drift(context: RunContext, part: str) -> list[Alarm]:
    from pipelines.drift import centroid_drift

    found, limit = [], context.config.schedule.max_drift
    for space in context.spaces.active():
        value = centroid_drift(context, space, part)
        if value is not None and value > limit:
            text = f"vectors of space {space.space_id} moved by {value:.4f} since the partition before; limit {limit}"
            found.append(Alarm("drift", part, text))
    return found


def _calibration(context: RunContext, part: str) -> list[Alarm]:
    gate, found = context.config.gate, []
    for vertical in context.dataset.heads:
        champion = context.registry.by_alias(context.vm_name(vertical), CHAMPION)
        version = None if champion is None else champion.version  # one that was replaced is nobody's concern any more
        live = [r for r in _live_rows(context, vertical) if r["model_version"] == version]
        rows = [r for r in live if r["metric"] == "calibration" and str(r["first_part"]) <= part]
        newest = max(rows, key=lambda r: str(r["first_part"]), default=None)
        if newest is None:
            continue
        value = float(str(newest["value"]))
        if not gate.calibration_low <= value <= gate.calibration_high:
            text = f"{vertical} version {newest['model_version']}: calibration {value:.3f} lies outside "
            text += f"{gate.calibration_low} .. {gate.calibration_high}"
            found.append(Alarm("calibration", str(newest["first_part"]), text))
    return found
