"""Steps ``promote`` and ``rollback``: the gate decides, the alias moves."""

from __future__ import annotations

import time

import pyarrow as pa

from feature_store.schemas import EVALUATIONS
from pipelines.context import RunContext
from pipelines.errors import GateError, ImmatureError, StepError
from pipelines.evaluate import registered_scores
from pipelines.gate import GateResult, decide
from pipelines.maturity import newest_with_positives, readable_parts, require_mature
from pipelines.registry import CHALLENGER, CHAMPION, GATE_TAG, ROLLBACK, TRAINED_UNTIL, RegisteredModel


def promote(context: RunContext, vertical: str, version: str | None = None, approve: bool = False) -> GateResult:
    """Put a challenger through the gate; passed promotes it, hold waits for ``approve``, failed ends with the reason.

    Raises:
        StepError: there is no challenger, or no partition after its training has features.
        GateError: the gate failed it; the message holds the reasons.
    """
    name = context.vm_name(vertical)
    challenger, result = judge(context, vertical, version)
    champion = context.registry.by_alias(name, CHAMPION)
    if champion is not None and champion.version == challenger.version:
        return result
    if result.verdict == "passed" or approve:
        _move(context, name, challenger, champion)
    return result


def judge(context: RunContext, vertical: str, version: str | None = None) -> tuple[RegisteredModel, GateResult]:
    """The gate's verdict on a challenger, recorded; no alias moves.

    Both models score the same newest mature partitions that neither trained on, as many as hold
    ``gate.min_positives``. Where none is mature yet the gate holds, and its reason says what it waits for. A challenger
    trained on older data than the champion fails: a backfill never goes back. One of another space holds at best: a
    hand-over may have taken longer than the champion's next training, and a person decides.

    Raises:
        StepError: there is no challenger, or no partition after its training has features.
        GateError: the gate failed it; the message holds the reasons.
    """
    name = context.vm_name(vertical)
    challenger = _challenger(context, name, version)
    champion = context.registry.by_alias(name, CHAMPION)
    if champion is not None and champion.version == challenger.version:
        context.progress(f"promote: {name} version {champion.version} is the champion already")
        return challenger, GateResult("passed", ["is the champion already"], {})
    older = _older(challenger, champion)
    if older and champion is not None and challenger.tags["loopfm.space"] == champion.tags["loopfm.space"]:
        raise GateError(
            f"{name} version {challenger.version}: failed: {older}: older data never replaces newer; `loopfm rollback` "
            "gives an earlier champion back"
        )
    parts, result = _measure(context, vertical, challenger, champion)
    now = context.registry.by_alias(name, CHAMPION)
    if now is not None and (champion is None or now.version != champion.version):
        context.progress(f"promote: {name} champion is version {now.version} by now: measured against it again")
        return judge(context, vertical, challenger.version)
    if older and result.verdict == "passed":
        result = GateResult("hold", [older, *result.reasons], result.metrics)
    context.progress(f"promote: {name} version {challenger.version} on {parts[0]} .. {parts[-1]}: {result}")
    _record(context, vertical, challenger, parts, result)
    if result.verdict == "failed":
        raise GateError(f"{name} version {challenger.version}: {result}")
    return challenger, result


def rollback(context: RunContext, vertical: str) -> RegisteredModel:
    """Give the champion alias back to the version before, which becomes the rollback's own way back.

    Raises:
        StepError: no earlier champion is known.
    """
    name = context.vm_name(vertical)
    earlier = context.registry.by_alias(name, ROLLBACK)
    if earlier is None:
        raise StepError(f"{name}: no version to roll back to: nothing was promoted over a champion yet")
    current = context.registry.by_alias(name, CHAMPION)
    context.registry.set_alias(name, CHAMPION, earlier.version)
    if current is not None:
        context.registry.set_alias(name, ROLLBACK, current.version)
    context.progress(f"rollback: {name} champion is version {earlier.version} again")
    return earlier


def _older(challenger: RegisteredModel, champion: RegisteredModel | None) -> str:
    """That the challenger was trained on older data than the champion; empty where it was not."""
    own = challenger.tags[TRAINED_UNTIL]
    until = own if champion is None else champion.tags[TRAINED_UNTIL]
    return f"it was trained until {own}, the champion until {until}" if own < until else ""


def _challenger(context: RunContext, name: str, version: str | None) -> RegisteredModel:
    if version is not None:
        return context.registry.by_version(name, version)
    found = context.registry.by_alias(name, CHALLENGER)
    if found is None:
        raise StepError(f"{name}: no challenger; run `loopfm train-vm` first")
    return found


def _measure(
    context: RunContext, vertical: str, challenger: RegisteredModel, champion: RegisteredModel | None
) -> tuple[list[str], GateResult]:
    """The partitions that the gate looks at, and its verdict on them."""
    gate, parts = context.config.gate, _unseen_parts(context, challenger, champion)
    try:
        parts = newest_with_positives(require_mature(context, vertical, parts), gate.min_positives)
    except ImmatureError as error:
        return parts, GateResult("hold", [str(error)], {"positives": 0.0})
    scores = registered_scores(context, vertical, challenger, parts)
    rival = None if champion is None else registered_scores(context, vertical, champion, parts)
    return parts, decide(gate, scores, rival)


def _unseen_parts(context: RunContext, challenger: RegisteredModel, champion: RegisteredModel | None) -> list[str]:
    models = [model for model in (challenger, champion) if model is not None]
    until = max(model.tags[TRAINED_UNTIL] for model in models)
    written = [set(readable_parts(context, model.tags["loopfm.space"])) for model in models]
    parts = sorted(part for part in set.intersection(*written) if part > until)
    if not parts:
        raise StepError(f"{challenger.name}: no partition after {until}, the end of training, has features yet")
    return parts


def _move(context: RunContext, name: str, challenger: RegisteredModel, champion: RegisteredModel | None) -> None:
    space_id = challenger.tags["loopfm.space"]
    if context.spaces.open(space_id):
        context.progress(
            f"promote: space {space_id} was closed and is written again from now on: `loopfm backfill {context.origin} "
            f"--from PART --space {space_id}` writes what it lacks"
        )
    if champion is not None:
        context.registry.set_alias(name, ROLLBACK, champion.version)
    context.registry.set_alias(name, CHAMPION, challenger.version)
    context.progress(f"promote: {name} champion is version {challenger.version}")


def _record(
    context: RunContext, vertical: str, challenger: RegisteredModel, parts: list[str], result: GateResult
) -> None:
    tags = {GATE_TAG: result.verdict, "loopfm.gate_reasons": "; ".join(result.reasons)[:4000]}
    context.registry.tag_version(challenger.name, challenger.version, tags)
    common = {
        "vertical": vertical,
        "model_name": challenger.name,
        "model_version": challenger.version,
        "run_id": challenger.run_id,
        "space_id": challenger.tags["loopfm.space"],
        "arm": "gate",
        "first_part": parts[0],
        "last_part": parts[-1],
        "slice": "all",
        "computed_at": int(time.time() * 1000),
    }
    rows = [{**common, "metric": metric, "value": value} for metric, value in result.metrics.items()]
    context.store.append_arrow("evaluations", pa.Table.from_pylist(rows, schema=EVALUATIONS))
