"""A small project whose ledger, quarantine, evaluations and models are real and hold one partition of every state.

Days 1 and 2 train the FM. Of the space ``fm-a``: fm_outputs of day 3 and 6 are done, day 4 is missing, day 5 failed;
day 6 was inferred again after its segments were written, so these are stale; its features are running.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from feature_store.commits import Attempt, StepInfo
from feature_store.ledger import DONE, FAILED, RUNNING
from feature_store.schemas import EVALUATIONS, QUARANTINE
from feature_store.spaces import SpaceRecord
from pipelines.context import RunContext
from pipelines.plan import Target, source_targets, space_targets
from pipelines.registry import CHALLENGER, CHAMPION
from tests.pipelines import loop_world

DAYS = [f"2026-01-0{day}" for day in range(1, 7)]
RUN = "small_data/scheduled__2026-01-07T00:00:00+00:00/space.infer/0"
SPACE = "fm-a"
REJECTS = {"null user": 30, "duplicate": 10}


def write_conf(folder: Path, **dataset: Any) -> Path:
    """The project's YAML file in ``folder``."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(loop_world.raw_settings(name="small", **dataset), sort_keys=False))
    return path


def make_ledger(context: RunContext) -> None:
    """Ledger, spaces and quarantine."""
    context.spaces.add(space(context, SPACE, "run-fm"))
    targets = {t.label: t for t in source_targets(context) + space_targets(context, context.spaces.get(SPACE))}
    rejected = {"rejected": 40}
    append(context, targets["examples"], DAYS, 0)
    append(context, targets["examples"], DAYS[5:], 1, rows=960, **rejected)
    for label in ("labels", f"fm_inputs {context.inputs_id}", f"partials {context.inputs_id}", "segments raw"):
        append(context, targets[label], DAYS, 0, reads={"examples": 1, "labels": 0})
    append(context, targets["histories raw"], DAYS[2:], 0, reads={"examples": 1, "segments": 0})
    append(context, targets[f"fm_outputs {SPACE}"], [DAYS[2]], 0, reads={"fm_inputs": 0})
    append(context, targets[f"fm_outputs {SPACE}"], [DAYS[5]], 1, reads={"fm_inputs": 0})
    begin(context, targets[f"fm_outputs {SPACE}"], [DAYS[4]], FAILED, "BadDataError: 3 rows of 1000 hold no item")
    append(context, targets[f"segments {SPACE}"], [DAYS[2], DAYS[5]], 0, reads={"fm_outputs": 1, "labels": 0})
    append(context, targets[f"features {SPACE}"], [DAYS[2]], 0, reads={"examples": 1, "fm_outputs": 0, "labels": 0})
    append(context, targets[f"fm_outputs {SPACE}"], [DAYS[5]], 2, number=2, reads={"fm_inputs": 0})
    begin(context, targets[f"features {SPACE}"], [DAYS[5]], RUNNING)
    make_quarantine(context)


def space(context: RunContext, space_id: str, run_id: str, cutoff: str = DAYS[2]) -> SpaceRecord:
    """A space whose FM has seen everything before ``cutoff``."""
    start = context.dataset.clock.start(cutoff)
    heads = context.dataset.heads
    return SpaceRecord(space_id, context.inputs_id, start, 0, heads, 16, 4, ["mlp.0"], "runs:/x/fm", "d" * 64, run_id)


def append(
    context: RunContext, target: Target, parts: Sequence[str], version: int, *, number: int = 1, rows: int = 1000,
    rejected: int = 0, reads: dict[str, int] | None = None,
) -> None:  # fmt: skip
    """One finished attempt that wrote ``version``."""
    made = _attempt(context, target, parts, number, reads)
    context.store.ledger.append(made.entries(RUNNING))
    ended = {"state": DONE, "version_written": version, "rows": rows, "rejected": rejected, "digest": "abc"}
    context.store.ledger.append([replace(entry, **ended) for entry in made.entries(DONE)])


def begin(context: RunContext, target: Target, parts: Sequence[str], state: str, message: str = "") -> None:
    """An attempt that wrote nothing: running, or failed with a message."""
    made = _attempt(context, target, parts, 1, None)
    context.store.ledger.append(made.entries(RUNNING))
    if state != RUNNING:
        context.store.ledger.append(made.entries(state, message))


def make_quarantine(context: RunContext) -> None:
    """Rejected rows of the last day, and their ledger entry."""
    rows = [
        {"part": DAYS[5], "reason": reason, "source_file": "a.csv", "row": "{}"}
        for reason, count in REJECTS.items()
        for _ in range(count)
    ]
    context.store.append_arrow("quarantine", pa.Table.from_pylist(rows, schema=QUARANTINE))
    step = StepInfo("ingest", 1, "settings", RUN, "c0ffee")
    made = Attempt("quarantine", {}, [DAYS[5]], 1, "q", step, {}, 0)
    context.store.ledger.append(
        [replace(entry, version_written=context.store.newest("quarantine"), rows=40) for entry in made.entries(DONE)]
    )


def make_models(context: RunContext) -> None:
    """An FM and two versions of the VM of ``feed``, the first champion, in a real MLflow store; and their figures."""
    registry = context.registry
    fm_tags = {"loopfm.kind": "fm", "loopfm.commit": "fm-commit", "loopfm.version.fm_inputs": "0"}
    fm_tags |= {"loopfm.train": f"{DAYS[0]}..{DAYS[0]}", "loopfm.validation": f"{DAYS[1]}..{DAYS[1]}"}
    with registry.run("fm", "fm", fm_tags) as run_id:
        pass
    registry.register(context.fm_name, run_id, "fm", {"loopfm.space": SPACE})
    context.spaces.add(space(context, SPACE, run_id))
    for place, last in enumerate((DAYS[3], DAYS[4])):
        train = f"{DAYS[2]}..{DAYS[2 + place]}"
        tags = {"loopfm.kind": "vm", "loopfm.vertical": "feed", "loopfm.arm": "loopfm_kd", "loopfm.commit": "vm-commit"}
        tags |= {"loopfm.space": SPACE, "loopfm.train": train, "loopfm.validation": f"{last}..{last}"}
        tags |= {"loopfm.version.features": "0", "loopfm.version.raw_histories": "0", "loopfm.version.histories": "0"}
        with registry.run(f"vm {place}", f"vm {place}", tags) as run_id:
            pass
        own = {"loopfm.space": SPACE, "loopfm.trained_until": last, "loopfm.gate": "passed"}
        version = registry.register(context.vm_name("feed"), run_id, "vm", own | {"loopfm.gate_reasons": "in its band"})
        registry.set_alias(context.vm_name("feed"), CHALLENGER if place else CHAMPION, version.version)
    context.store.append_arrow("evaluations", pa.Table.from_pylist(figures(), schema=EVALUATIONS))


def figures() -> list[dict[str, Any]]:
    """A comparison on days 5 and 6, a second one of day 6, and the live champion scored on day 6."""
    ne = {"base": 0.96, "control": 0.93, "loopfm_kd": 0.90, "fm": 0.86}
    rows = []
    for at, gain in ((1, 0.0), (2, 0.01)):
        for arm, value in ne.items():
            own = value if arm == "base" else value - gain
            rows.append(_figure(arm, "ne", own, "all", at))
            rows += [_figure(arm, "ne", own + 0.001 * day, f"part: {part}", at) for day, part in enumerate(DAYS[4:])]
        rows.append(_figure("loopfm_kd", "tr", 0.5 + gain, "all", at))
        rows.append(_figure("gate", "ne", 0.5, "all", at))
        rows.append(_figure("base", "ne", 0.7, "all", at) | {"seed": 1})
    return [*rows, _figure("live", "ne", 0.91, "all", 3) | {"first_part": DAYS[5], "model_version": "1"}]


def _figure(arm: str, metric: str, value: float, slice_name: str, at: int) -> dict[str, Any]:
    row = {"vertical": "feed", "model_name": "loopfm-small-feed", "model_version": "", "run_id": "", "space_id": SPACE}
    row |= {"arm": arm, "seed": None, "first_part": DAYS[4], "last_part": DAYS[5], "slice": slice_name}
    return row | {"metric": metric, "value": value, "rows": 1000, "staleness_hours": 13.0, "computed_at": at}


def _attempt(
    context: RunContext, target: Target, parts: Sequence[str], number: int, reads: dict[str, int] | None
) -> Attempt:
    step = replace(target.step.info(context), run_id=RUN, commit="c0ffee")
    token = f"{target.label}-{parts[0]}-{number}"
    return Attempt(target.step.table, target.scope, list(parts), number, token, step, reads or {}, 1_767_571_200_000)
