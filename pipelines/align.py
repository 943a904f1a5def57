"""Step ``align``: fit a map from one space's vectors to another's on examples that both hold; find it again later."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from feature_store.spaces import SpaceRecord
from models.alignment import (
    KINDS,
    QUALITY,
    Alignment,
    MapKind,
    SpaceCodes,
    fit_map,
    load_alignment,
    reconstruction,
    save_alignment,
)
from models.codec import Codes
from models.drift import centroid_shift, linear_cka, mean_cosine, neighbour_overlap
from models.errors import SpaceMismatchError
from pipelines.align_choice import NE, HeldOut, Quality, add_vm_ne, best_kind
from pipelines.context import RunContext
from pipelines.digest import digest
from pipelines.errors import StepError
from pipelines.progress import timed
from pipelines.vectors import packed_codes, vectors

STEP_VERSION = 2
ALIGNMENT_ARTIFACTS, ALIGNMENT_FILE = "alignment", "alignment.pt"
HELD_OUT = 0.2
FIT_ROWS, DRIFT_ROWS = 200_000, 2_000


@dataclass(frozen=True)
class FittedAlignment:
    """The chosen map, the quality of every kind on held-out examples, how far the spaces lie apart, and the run."""

    alignment: Alignment
    quality: Quality
    drift: dict[str, float]
    held_out: HeldOut
    run_id: str


@dataclass(frozen=True)
class SharedExamples:
    """Packed vectors of the same N examples in both spaces [N, bytes], oldest first.

    ``newest`` and ``held_out_from``: event_ts (ms) of the last example and of the first that no map is fitted on.
    """

    a: Codes
    b: Codes
    newest: int
    held_out_from: int


def align(context: RunContext, source: SpaceRecord, target: SpaceRecord, parts: list[str]) -> FittedAlignment:
    """Fit every kind of map on the older shared examples of ``parts``, keep the best on the newest fifth, log all.

    Where the source holds features of held-out rows and a VM of the target is registered, the map of the lowest VM NE
    is kept, and reconstruction decides among equals; elsewhere reconstruction alone does. The same fit again returns
    the first one's map. Histories of ``source`` may then be read by VMs of ``target``, for rows after the examples
    used here.

    Raises:
        StepError: the spaces have other heads, or too few examples in common.
        MissingInputError: fm_outputs of a partition are missing in one of the spaces.
    """
    if source.heads != target.heads:
        raise StepError(
            f"spaces {source.space_id} and {target.space_id}: heads {source.heads} and {target.heads} differ"
        )
    versions = {space.space_id: context.pin("fm_outputs", _scope(space), parts) for space in (source, target)}
    made_from = (context.store.identity("fm_outputs"), source.space_id, target.space_id, parts, versions)
    idempotency = digest("align", STEP_VERSION, *made_from)
    finished = context.registry.finished_run(idempotency)
    shared = shared_examples(context, source, target, parts)
    if finished is not None:
        run_id = str(finished.info.run_id)
        metrics = context.registry.run_metrics(run_id)
        drift, held_out = drift_figures(shared, source, target), HeldOut(parts, shared.held_out_from)
        return FittedAlignment(_fetch(context, run_id), _logged(metrics), drift, held_out, run_id)
    tags = {
        "loopfm.kind": "alignment",
        "loopfm.from_space": source.space_id,
        "loopfm.to_space": target.space_id,
        "loopfm.commit": context.commit,
        "loopfm.parts": f"{parts[0]}..{parts[-1]}",
    }
    with context.registry.run(f"align {source.space_id} to {target.space_id}", idempotency, tags) as run_id:
        with timed(context.progress, f"align: {source.space_id} to {target.space_id}, {len(shared.a)} examples"):
            maps = fit_kinds(shared, source, target)
            found = reconstructions(maps, shared)
            held_out = HeldOut(parts, shared.held_out_from)
            quality = add_vm_ne(context, maps, found, (source, target), held_out)
        drift = drift_figures(shared, source, target)
        fitted = FittedAlignment(maps[best_kind(quality)], quality, drift, held_out, run_id)
        _record(context, fitted, len(shared.a))
    return fitted


def find_alignment(context: RunContext, source: SpaceRecord, target: SpaceRecord, first_part: str) -> Alignment:
    """The newest map from ``source`` to ``target`` that may serve rows from ``first_part`` on.

    Raises:
        SpaceMismatchError: there is none; names both spaces and the two ways across.
    """
    start = context.dataset.clock.start(first_part)
    tags = {
        "loopfm.kind": "alignment",
        "loopfm.from_space": source.space_id,
        "loopfm.to_space": target.space_id,
    }
    late = []
    for run in context.registry.runs_with(tags):
        found = _fetch(context, str(run.info.run_id))
        if found.fitted_until < start:
            return found
        late.append(found.fitted_until)
    raise SpaceMismatchError(
        f"rows of space {source.space_id} for a model of space {target.space_id}, from {first_part} on: "
        f"{f'the maps there are were fitted on rows up to {max(late)} ms' if late else 'no map was fitted'}; "
        f"run `loopfm align {context.origin} --from-space {source.space_id} --to-space {target.space_id} --from .. "
        f"--to ..` on earlier partitions, or backfill {target.space_id}"
    )


def shared_examples(context: RunContext, source: SpaceRecord, target: SpaceRecord, parts: list[str]) -> SharedExamples:
    """The newest ``FIT_ROWS`` examples of ``parts`` with vectors in both spaces.

    Raises:
        StepError: they are too few to fit and to hold out.
    """
    rows = [_outputs(context, space, parts) for space in (source, target)]
    ids = [table["example_id"].to_numpy() for table in rows]
    _, left, right = np.intersect1d(*ids, return_indices=True)
    event_ts = rows[0]["event_ts"].to_numpy()[left]
    order = np.lexsort((ids[0][left], event_ts))[-FIT_ROWS:]
    needed = int(2 * max(source.dim, target.dim) / HELD_OUT)
    if len(order) < needed:
        raise StepError(
            f"spaces {source.space_id} and {target.space_id} share {len(order)} examples in {parts[0]} .. {parts[-1]}; "
            f"at least {needed} are needed: run `loopfm infer` of both over more partitions"
        )
    a, b = (
        packed_codes(table.take(pa.array(place[order])), space)
        for table, place, space in ((rows[0], left, source), (rows[1], right, target))
    )
    return SharedExamples(a, b, int(event_ts[order[-1]]), int(event_ts[order[_border(len(order))]]))


def fit_best(shared: SharedExamples, source: SpaceRecord, target: SpaceRecord) -> tuple[Alignment, Quality]:
    """Every kind fitted on the older examples; the one of the highest ``r2`` on the newest fifth, and all qualities."""
    fitted = fit_kinds(shared, source, target)
    quality = reconstructions(fitted, shared)
    return fitted[best_kind(quality)], quality


def reconstructions(fitted: Mapping[MapKind, Alignment], shared: SharedExamples) -> Quality:
    """Quality of each map on the newest fifth of the examples."""
    border = _border(len(shared.a))
    return {kind: reconstruction(made, shared.a[border:], shared.b[border:]) for kind, made in fitted.items()}


def fit_kinds(shared: SharedExamples, source: SpaceRecord, target: SpaceRecord) -> dict[MapKind, Alignment]:
    """A map of every kind, fitted on all but the newest fifth of the examples."""
    border = _border(len(shared.a))
    a, b = vectors(shared.a[:border], source), vectors(shared.b[:border], target)
    spaces = [SpaceCodes(space.space_id, space.dim, space.bits) for space in (source, target)]
    return {kind: Alignment(kind, spaces[0], spaces[1], shared.newest, fit_map(kind, a, b)) for kind in KINDS}


def _border(examples: int) -> int:
    """Place of the first held-out example."""
    return int(examples * (1 - HELD_OUT))


def drift_figures(shared: SharedExamples, source: SpaceRecord, target: SpaceRecord) -> dict[str, float]:
    """How far the spaces lie apart on their newest shared examples; value by value only where the sizes agree."""
    a, b = vectors(shared.a[-DRIFT_ROWS:], source), vectors(shared.b[-DRIFT_ROWS:], target)
    figures = {"linear_cka": linear_cka(a, b), "neighbour_overlap": neighbour_overlap(a, b)}
    if a.shape == b.shape:
        figures |= {"mean_cosine": mean_cosine(a, b), "centroid_shift": centroid_shift(a, b)}
    return figures


def _scope(space: SpaceRecord) -> dict[str, str]:
    return {"space_id": space.space_id}


def _outputs(context: RunContext, space: SpaceRecord, parts: list[str]) -> pa.Table:
    version = context.pin("fm_outputs", _scope(space), parts)
    return context.store.arrow("fm_outputs", version, _scope(space), parts, ["example_id", "event_ts", "z"])


def _record(context: RunContext, fitted: FittedAlignment, rows: int) -> None:
    folder = context.scratch / "align" / fitted.run_id
    save_alignment(folder / ALIGNMENT_FILE, fitted.alignment)
    context.registry.log_files(fitted.run_id, folder, ALIGNMENT_ARTIFACTS)
    shutil.rmtree(folder)
    metrics = {f"{kind}_{name}": value for kind, own in fitted.quality.items() for name, value in own.items()}
    chosen = {"map": fitted.alignment.kind, "fitted_until": fitted.alignment.fitted_until, "examples": rows}
    context.registry.log(fitted.run_id, chosen, metrics | {f"drift_{k}": v for k, v in fitted.drift.items()})


def _logged(metrics: dict[str, float]) -> Quality:
    return {
        kind: {name: metrics[f"{kind}_{name}"] for name in (*QUALITY, NE) if f"{kind}_{name}" in metrics}
        for kind in KINDS
    }


def _fetch(context: RunContext, run_id: str) -> Alignment:
    local = context.scratch / "alignments" / run_id
    if not (local / ALIGNMENT_ARTIFACTS).is_dir():
        context.registry.fetch_run_files(run_id, ALIGNMENT_ARTIFACTS, local)
    return load_alignment(local / ALIGNMENT_ARTIFACTS / ALIGNMENT_FILE)
