"""Which keys, measures and passes a set of as-of declarations needs; no Spark, no data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from feature_store.clocks import duration_ms
from feature_store.config import EVER, AsOfFeature, DatasetConfig, EventList

ClockName = Literal["fm", "vm"]

COUNT = "count"


def labelled(label: str) -> str:
    """Measure: weighted examples whose label is known."""
    return f"labelled:{label}"


def positive(label: str) -> str:
    """Measure: weighted positives whose label is known."""
    return f"positive:{label}"


def list_measure(event_list: EventList) -> str:
    """Name of a list's events among the partial rows."""
    return f"list:{event_list.name}"


@dataclass(frozen=True)
class KeyPlan:
    """All declarations of one key."""

    columns: tuple[str, ...]
    features: tuple[AsOfFeature, ...]
    lists: tuple[EventList, ...]

    @property
    def name(self) -> str:
        """The key's name in table ``partials``."""
        return ",".join(self.columns)

    @property
    def labels(self) -> list[str]:
        """Labels that this key's declarations read, in order of first use."""
        named = [f.label for f in self.features] + [e.label for e in self.lists]
        return list(dict.fromkeys(label for label in named if label))

    @property
    def measures(self) -> list[str]:
        """Sums that this key's declarations are made of."""
        named = [COUNT for f in self.features if f.label is None]
        named += [positive(f.label) for f in self.features if f.label]
        named += [labelled(f.label) for f in self.features if f.label and f.kind == "label_rate"]
        return list(dict.fromkeys(named))

    @property
    def outputs(self) -> list[str]:
        """Scalar columns of this key, in declared order."""
        return [column for feature in self.features for column in feature.columns]


@dataclass(frozen=True)
class Pass:
    """Keys that share column ``anchor``: rows that lie together by it serve all of them in one shuffle."""

    anchor: str
    keys: tuple[KeyPlan, ...]

    @property
    def lists(self) -> list[EventList]:
        """Event lists of this pass."""
        return [event_list for key in self.keys for event_list in key.lists]

    @property
    def outputs(self) -> list[str]:
        """Scalar columns of this pass."""
        return [column for key in self.keys for column in key.outputs]


@dataclass(frozen=True)
class Plan:
    """How to compute a set of declarations on one clock.

    ``before`` runs ahead of the within-impression columns ``within``, which need it; ``after`` holds the other passes.
    """

    clock: ClockName
    before: tuple[Pass, ...]
    within: tuple[str, ...]
    after: tuple[Pass, ...]

    @property
    def passes(self) -> tuple[Pass, ...]:
        """All passes in the order in which they run."""
        return self.before + self.after

    @property
    def keys(self) -> list[KeyPlan]:
        """All keys in the order of the passes."""
        return [key for one in self.passes for key in one.keys]

    @property
    def labels(self) -> list[str]:
        """Labels that some declaration reads, in order of first use."""
        return list(dict.fromkeys(label for key in self.keys for label in key.labels))


def fm_plan(dataset: DatasetConfig) -> Plan:
    """The plan of all that the FM reads, on its clock: the event itself, or what ``fm_clock`` says."""
    clock: ClockName = "fm" if dataset.fm_clock == "event" else "vm"
    return _plan(dataset, clock, set(dataset.fm_features))


def vm_plan(dataset: DatasetConfig, names: Sequence[str]) -> Plan:
    """The plan of as-of declarations and lists ``names`` on the VM's clock: closed partitions + lag.

    Where histories are readable at once, counters are as of the event too.
    """
    return _plan(dataset, "fm" if dataset.history_clock.at_once else "vm", set(names))


def partial_plans(dataset: DatasetConfig) -> list[Plan]:
    """Plans whose partial sums are kept, one a clock: the FM's, and that of all verticals' counters."""
    counted = counter_names(dataset)
    if dataset.fm_clock == "batch" or dataset.history_clock.at_once:
        return [vm_plan(dataset, [*counted, *dataset.fm_features])]
    return [fm_plan(dataset), vm_plan(dataset, counted)]


def counter_names(dataset: DatasetConfig) -> list[str]:
    """As-of declarations that some vertical reads as counters, in declared order."""
    wanted = {name for vertical in dataset.verticals.values() for name in vertical.counters}
    return [f.name for f in dataset.as_of if f.name in wanted]


def window_ms(window: str) -> int | None:
    """Length of a window; None for ``ever``."""
    return None if window == EVER else duration_ms(window)


def _plan(dataset: DatasetConfig, clock: ClockName, wanted: set[str]) -> Plan:
    features = [f for f in dataset.as_of if f.name in wanted]
    lists = [e for e in dataset.event_lists if e.name in wanted]
    declared = dict.fromkeys([*(tuple(f.key) for f in features), *(tuple(e.key) for e in lists)])
    keys = [
        KeyPlan(key, tuple(f for f in features if tuple(f.key) == key), tuple(e for e in lists if tuple(e.key) == key))
        for key in declared
    ]
    made = [column for key in keys for column in key.outputs]
    within = tuple(column for column in dataset.within_impression.columns if column in made)
    # Passes with lists run last, and after the within-impression shuffle where they can: lists are the widest columns.
    passes = sorted(_passes(keys), key=lambda one: bool(one.lists))
    before = tuple(one for one in passes if set(one.outputs) & set(within))
    return Plan(clock, before, within, tuple(one for one in passes if one not in before))


def _passes(keys: list[KeyPlan]) -> list[Pass]:
    """Few passes that cover all keys: again and again the column that most of the rest share."""
    passes, rest = [], list(keys)
    while rest:
        columns = list(dict.fromkeys(column for key in rest for column in key.columns))
        anchor = max(columns, key=lambda column: sum(column in key.columns for key in rest))
        passes.append(Pass(anchor, tuple(key for key in rest if anchor in key.columns)))
        rest = [key for key in rest if anchor not in key.columns]
    return passes
