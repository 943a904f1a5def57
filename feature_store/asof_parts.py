"""Which partitions an as-of computation must read row by row, and for which partial sums are enough."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from feature_store.asof_plan import Plan, fm_plan, vm_plan, window_ms
from feature_store.clocks import PartitionClock
from feature_store.config import DatasetConfig


@dataclass(frozen=True)
class NeededParts:
    """Partitions to read: ``raw`` of examples, labels and past events, ``partial`` of partials. They are disjoint."""

    raw: list[str]
    partial: list[str]


def needed_parts(
    dataset: DatasetConfig,
    parts: Sequence[str],
    known: Collection[str],
    summed: Collection[str] = (),
    names: Sequence[str] | None = None,
) -> NeededParts:
    """What the as-of columns of ``parts`` need, exactly.

    Args:
        dataset: the declarations.
        parts: partitions whose rows are wanted.
        known: partitions that hold examples or past events.
        summed: partitions whose partial sums are up to date.
        names: declarations to compute on the VM's clock; None: all that the FM reads, on its own.
    """
    plan = fm_plan(dataset) if names is None else vm_plan(dataset, names)
    asks = _Asks.of(dataset, plan, min(parts), max(parts))
    raw: list[str] = []
    partial: list[str] = []
    for part in sorted({*known, *parts}):
        if min(parts) <= part <= max(parts):
            raw.append(part)
        elif part < min(parts) and asks.sees(part):
            (partial if part in summed and asks.sees_whole(part) else raw).append(part)
    return NeededParts(raw, partial)


def earlier_parts(
    dataset: DatasetConfig, names: Sequence[str] | None = None
) -> Callable[[str], tuple[str, str] | None]:
    """Of a partition, the first and last of the earlier ones whose events its as-of columns may see; None: of none.

    ``names`` as in ``needed_parts``. The first is empty text where nothing bounds it.
    """
    clock = dataset.clock
    plan = fm_plan(dataset) if names is None else vm_plan(dataset, names)
    windows, endless = _looks_back(plan)

    def span(part: str) -> tuple[str, str] | None:
        start = first = last = clock.start(part)
        if plan.clock == "vm":
            first, last = clock.as_of(start, dataset.lag), clock.as_of(start + dataset.grain - 1, dataset.lag)
        return "" if endless else clock.part_of(first - max(windows)), clock.part_of(last - 1)

    return span if endless or windows else lambda part: None


def reach_ms(dataset: DatasetConfig, plan: Plan) -> int:
    """How long after a partition its partial sums may be read: on the FM's clock the longest declared label delay.

    In whole partitions. On the VM's clock at once, since it sees closed partitions only.
    """
    if plan.clock == "vm":
        return 0
    delay = max((dataset.labels[label].delay for label in plan.labels), default=0)
    return -(-delay // dataset.grain) * dataset.grain


@dataclass(frozen=True)
class _Asks:
    """The span of instants that the queries of a range ask at, and how far they look back."""

    clock: PartitionClock
    first: int
    last: int
    reach: int
    windows: tuple[int, ...]
    endless: bool
    on_borders: bool

    @staticmethod
    def of(dataset: DatasetConfig, plan: Plan, first_part: str, last_part: str) -> _Asks:
        clock = dataset.clock
        first, last = clock.start(first_part), clock.end(last_part) - 1
        if plan.clock == "vm":
            first, last = clock.as_of(first, dataset.lag), clock.as_of(last, dataset.lag)
        return _Asks(clock, first, last, reach_ms(dataset, plan), *_looks_back(plan), plan.clock == "vm")

    def sees(self, part: str) -> bool:
        """Some window of some query may hold an event of ``part``."""
        return self.endless or any(self.clock.end(part) - 1 >= self.first - window for window in self.windows)

    def sees_whole(self, part: str) -> bool:
        """No window's edge cuts ``part``, and its partial sums may be read by every query."""
        start, end = self.clock.start(part), self.clock.end(part)
        ready = self.on_borders or end + self.reach <= self.first
        return ready and not any(self._cuts(start, end, window) for window in self.windows)

    def _cuts(self, start: int, end: int, window: int) -> bool:
        if self.on_borders and window % self.clock.grain_ms == 0:
            return False
        return start < self.last - window and end - 1 >= self.first - window


def _looks_back(plan: Plan) -> tuple[tuple[int, ...], bool]:
    """The windows of a plan in ms, ascending, and whether something of it looks back without end."""
    features = [feature for key in plan.keys for feature in key.features]
    lengths = [window_ms(window) for feature in features for window in feature.windows]
    endless = None in lengths or any(f.kind == "age" for f in features) or any(key.lists for key in plan.keys)
    return tuple(sorted({length for length in lengths if length is not None})), endless
