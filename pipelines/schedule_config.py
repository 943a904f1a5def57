"""When the scheduler runs what: the settings of a project's Dags."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from feature_store.clocks import DAY_MS
from feature_store.config import Duration, Strict

CRON = r"^\S+ \S+ \S+ \S+ \S+$"
EVERY = re.compile(r"every ([1-9]\d*) partitions")


def partitions_between(cadence: str) -> int | None:
    """The N of a cadence ``every N partitions``; None for a cron expression."""
    found = EVERY.fullmatch(cadence)
    return int(found[1]) if found else None


class ScheduleConfig(Strict):
    """The Dags of a project. Partitions are made at the data set's own grain, each once it has closed.

    A partition's deadline is ``dataset.lag`` after it closed: what its readers are promised.
    """

    first: str | None = Field(
        default=None, description="first partition or day to schedule (default: the next to close)"
    )
    last: str | None = Field(default=None, description="last partition or day to schedule (default: no end)")
    catchup: bool = Field(
        default=False, description="make every partition since first that has no run, not only those within late"
    )
    ready: str | None = Field(
        default=None,
        description="a file that tells that the source holds a partition, with {part} in its path; without it the "
        "source is taken to be ready once the partition has closed",
    )
    late: Duration = Field(
        default=2 * DAY_MS,
        description="how far back late source rows are looked for, and partitions without a run are made up",
    )
    train_vm: str = Field(
        default="0 1 * * *", description="when VMs are trained: cron in UTC, or `every N partitions` as these close"
    )
    train_vm_own: dict[str, str] = Field(
        default={}, description="vertical -> when its VM is trained, where that differs from train_vm"
    )
    train_fm: str = Field(
        default="0 2 * * 0", description="when a new FM opens a space: cron in UTC, or `every N partitions`"
    )
    maintenance: str = Field(default="0 3 * * *", pattern=CRON, description="cron, UTC: compaction, retention, report")
    backfill_rows: int = Field(default=1_000_000, ge=1, description="rows that one Spark session of a backfill writes")
    max_drift: float = Field(
        default=0.01, gt=0, description="alarm: 1 - cosine of the mean vectors of two neighbouring partitions"
    )
    max_quarantine: float = Field(default=0.01, gt=0, le=1, description="alarm: share of a partition's rows set aside")

    @field_validator("train_vm", "train_vm_own", "train_fm")
    @classmethod
    def _is_cadence(cls, value: str | dict[str, str]) -> str | dict[str, str]:
        for cadence in [value] if isinstance(value, str) else value.values():
            if not re.match(CRON, cadence) and partitions_between(cadence) is None:
                raise ValueError(f"got {cadence!r}; allowed: a cron expression of five fields, or 'every N partitions'")
        return value
