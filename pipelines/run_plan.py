"""What ``loopfm run`` would do over a range, found by the functions that it runs by; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from feature_store.config import RAW_SPACE
from feature_store.ledger import scope_text
from feature_store.spaces import SpaceRecord
from pipelines.backfill_plan import expected_rows
from pipelines.config import Arm
from pipelines.context import RunContext
from pipelines.fm_declaration import has_batch_fm
from pipelines.own_parts import require_own_parts
from pipelines.plan import Planned, Target, ranges, states_after
from pipelines.registry import CHALLENGER, CHAMPION
from pipelines.step import Scope
from pipelines.windows import RunWindows
from pipelines.write_range import Call, source_calls, space_calls

ROW_PER_EXAMPLE = ("examples", "fm_inputs", "fm_outputs")


@dataclass(frozen=True)
class PlannedAction:
    """One thing that a run would do: ``verb`` (write, train-fm, train-vm, evaluate, gate), to what, over which parts.

    ``why`` holds one reason, or one for each run of neighbouring partitions. ``rows`` is an estimate, None where
    nothing is known yet.
    """

    verb: str
    what: str
    parts: list[str]
    why: list[str]
    rows: int | None = None

    def __str__(self) -> str:
        where = f"{self.parts[0]} .. {self.parts[-1]} ({len(self.parts)})"
        rows = "" if self.rows is None else f", about {self.rows:,} rows"
        reasons = f" {self.why[0]}" if len(self.why) == 1 else "".join(f"\n    {reason}" for reason in self.why)
        return f"{self.verb:8} {self.what:28} {where}{rows}:{reasons}"


def plan_run(context: RunContext, windows: RunWindows, arms: Sequence[Arm], seeds: int) -> list[PlannedAction]:
    """What ``run_loop`` would do with the same arguments, in its order.

    A space that does not exist yet is named by the seed of its FM. Evaluation is always done again.

    Raises:
        ModelConfigError: a part of a team's own cannot be imported.
    """
    require_own_parts(context.config, arms)
    return list(_Planner(context, windows, arms).actions(seeds))


class _Planner:
    """Walks through a run, keeping what it would have written so far."""

    def __init__(self, context: RunContext, windows: RunWindows, arms: Sequence[Arm]) -> None:
        self.context, self.windows, self.arms = context, windows, arms
        self.planned: Planned = {}
        self.challengers: dict[str, str | None] = {}
        self.example_rows = expected_rows(context, windows.parts)

    def actions(self, seeds: int) -> Iterator[PlannedAction]:
        yield from self._writes(source_calls(self.context, self.windows.parts, self.windows.vm))
        for seed in range(seeds):
            space = self._space(seed)
            if space is None:
                space = _new_space(self.context, seed)
                yield PlannedAction("train-fm", f"seed {seed}", self.windows.fm, ["its inputs or settings are new"])
            yield from self._writes(space_calls(self.context, space, self.windows.outputs, self.windows.vm))
            yield from self._trainings(space, seed)
        for vertical in self.context.dataset.heads:
            yield PlannedAction("evaluate", vertical, self.windows.test, [self._compared()])
            if vertical in self.challengers and (why := self._gate_reason(vertical)):
                yield PlannedAction("gate", vertical, self.windows.test, [why])

    def _compared(self) -> str:
        config = self.context.config
        batch_fm = has_batch_fm(config.dataset, config.fm)
        beside = ", beside an FM of the same size on batch features" if batch_fm else ""
        return f"arms {', '.join(self.arms)}{beside}"

    def _trainings(self, space: SpaceRecord, seed: int) -> Iterator[PlannedAction]:
        parts = self.windows.vm_train + self.windows.vm_validation
        for vertical in self.context.dataset.heads:
            for arm in self.arms:
                run_id = self._trained(vertical, space, arm, seed)
                if run_id is None:
                    why = f"its rows or settings in space {space.space_id} are new"
                    yield PlannedAction("train-vm", f"{vertical} {arm} seed {seed}", parts, [why])
                if seed == 0 and arm == self.context.config.vm.scheduled_arm:
                    self.challengers[vertical] = run_id

    def _writes(self, calls: list[list[Call]]) -> Iterator[PlannedAction]:
        for call in chain.from_iterable(calls):
            needed = call.needed(self.context, self.planned)
            if needed:
                for target in call.targets:
                    rows, why = self._rows(target, needed), self._why(target, needed, call.lacking)
                    yield PlannedAction("write", target.label, needed, why, rows)
            for target in call.targets:
                key = target.step.table, scope_text(target.scope)
                self.planned[key] = sorted({*self.planned.get(key, []), *needed})

    def _why(self, target: Target, parts: list[str], lacking: Mapping[str, int] | None) -> list[str]:
        """The reason, or where there are several, each with its partitions: fresh ones lie in between."""
        found = ranges(parts, states_after(self.context, target, parts, self.planned, lacking))
        reasons = [f"{s.state}: {s.reason}" if s.reason else s.state for _, _, s, _ in found]
        if len(found) == 1:
            return reasons
        return [f"{a} .. {b} ({count}): {why}" for (a, b, _, count), why in zip(found, reasons, strict=True)]

    def _rows(self, target: Target, parts: list[str]) -> int | None:
        """The ledger's rows where a partition was written, else the mean of those that were."""
        entries = self.context.store.ledger.coverage(target.step.table, target.scope)
        done = {part: entry.rows for part, entry in entries.items() if entry.done}
        if done:
            mean = sum(done.values()) / len(done)
            return round(sum(done.get(part, mean) for part in parts))
        if target.step.table in ROW_PER_EXAMPLE:
            return round(sum(self.example_rows[part] for part in parts)) or None
        return None

    def _space(self, seed: int) -> SpaceRecord | None:
        """The space of the FM of a seed; None where it has to be trained."""
        read: list[tuple[str, Scope]] = [("fm_inputs", {"inputs_id": self.context.inputs_id}), ("labels", {})]
        if self._will_write(read, self.windows.fm):
            return None
        # Torch and MLflow take seconds to import; a plan that trains all anew needs neither.
        from pipelines.train_fm import fm_training

        training = fm_training(self.context, self.windows.fm_train, self.windows.fm_validation, seed)
        finished = self.context.registry.finished_run(training.idempotency)
        return None if finished is None else self.context.spaces.get(finished.data.tags["loopfm.space"])

    def _trained(self, vertical: str, space: SpaceRecord, arm: Arm, seed: int) -> str | None:
        """The finished run of a VM; None where it has to be trained."""
        windows = (self.windows.vm_train, self.windows.vm_validation)
        own, raw = {"space_id": space.space_id}, {"space_id": RAW_SPACE}
        if self._will_write([("features", own), ("histories", own), ("histories", raw)], windows[0] + windows[1]):
            return None
        from pipelines.train_vm import vm_training

        training = vm_training(self.context, vertical, space, windows, arm=arm, seed=seed)
        finished = self.context.registry.finished_run(training.idempotency)
        return None if finished is None else str(finished.info.run_id)

    def _will_write(self, tables: list[tuple[str, Scope]], parts: list[str]) -> bool:
        """Whether one of ``parts`` of one of these tables is planned."""
        planned = {part for table, scope in tables for part in self.planned.get((table, scope_text(scope)), [])}
        return not planned.isdisjoint(parts)

    def _gate_reason(self, vertical: str) -> str:
        """Why the gate is asked; empty where the challenger is the champion already."""
        name, run_id = self.context.vm_name(vertical), self.challengers[vertical]
        if run_id is None:
            return "there will be a new challenger"
        champion = self.context.registry.by_alias(name, CHAMPION)
        if champion is None or champion.run_id != run_id:
            return f"the VM of run {run_id} is not the champion"
        challenger = self.context.registry.by_alias(name, CHALLENGER)
        if challenger is None or challenger.version == champion.version:
            return ""
        return f"version {challenger.version} is the challenger"


def _new_space(context: RunContext, seed: int) -> SpaceRecord:
    """Stands for the space that an FM would open: nothing is written in it yet."""
    return SpaceRecord(
        space_id=f"of the new FM, seed {seed}",
        inputs_id=context.inputs_id,
        fm_train_cutoff=0,
        training_lag_ms=context.dataset.training_lag,
        heads=context.dataset.heads,
        dim=context.config.fm.codec.dim,
        bits=context.config.fm.codec.bits,
        captures=list(context.config.fm.captures),
        model_path="",
        model_digest="",
        run_id="",
    )
