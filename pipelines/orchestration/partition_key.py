"""Which partition a scheduled run makes: one rule for daily runs, backfills, manual runs and tests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from feature_store.clocks import DAY_MS, HOUR_MS, MINUTE_MS, PartitionClock
from pipelines.errors import ConfigError, StepError

PART_PARAM = "part"
SCHEDULED = "scheduled"


def cron_of(clock: PartitionClock) -> str:
    """Cron expression, in UTC, of the instants at which partitions close.

    Raises:
        ConfigError: cron cannot say this grain and offset.
    """
    offset = clock.offset_ms % clock.grain_ms // MINUTE_MS
    if clock.grain_ms == DAY_MS:
        return f"{offset % 60} {offset // 60} * * *"
    if clock.grain_ms % HOUR_MS == 0:
        hours = clock.grain_ms // HOUR_MS
        return f"{offset % 60} {f'{offset // 60}-23/{hours}' if hours > 1 else '*'} * * *"
    minutes = clock.grain_ms // MINUTE_MS
    if HOUR_MS % clock.grain_ms == 0:
        return f"{offset}-59/{minutes} * * * *"
    raise ConfigError(
        f"dataset.grain: got {minutes} minutes, which no cron expression says; allowed in scheduled projects: a "
        "divisor of an hour, or whole hours that divide a day"
    )


def key_format(clock: PartitionClock) -> str:
    """strftime format that makes a partition key equal to the partition's own name."""
    name = clock.part_of(clock.floor(0))
    return {10: "%Y-%m-%d", 13: "%Y-%m-%dT%H", 15: "%Y-%m-%dT%H%M"}[len(name)]


def resolve_part(
    clock: PartitionClock, partition_key: str | None, params: Mapping[str, Any], logical_date: datetime | None
) -> str:
    """The partition of a run: its partition key, else the parameter ``part``, else the one that holds its logical date.

    Args:
        clock: of the data set.
        partition_key: of the Dag run; the partition's name, or the ISO time of its start.
        params: of the Dag run.
        logical_date: of the Dag run; ``dags test`` and manual runs have one and no key.

    Raises:
        StepError: none of the three is given, or the key is no partition; says what to give.
    """
    if partition_key:
        return _of_text(clock, partition_key, "partition key")
    if params.get(PART_PARAM):
        return _of_text(clock, str(params[PART_PARAM]), f"parameter {PART_PARAM}")
    if logical_date is not None:
        return clock.part_of(instant_ms(logical_date))
    raise StepError(
        f"the run names no partition: give it a partition key, the parameter {PART_PARAM!r} (such as "
        f"{clock.part_of(1_700_000_000_000)}) or a logical date"
    )


def closed_part(clock: PartitionClock, instant: datetime) -> str:
    """The newest partition that had closed at ``instant``."""
    return clock.part_of(clock.floor(instant_ms(instant)) - 1)


def follows_clock(grain_ms: int, lag_ms: int, run_type: str, due: datetime, begun: datetime) -> bool:
    """Whether readers wait for the partition that a run makes: a scheduled run that began before a later partition
    closed, or before the promised lag was over. One that begins later catches up: it cannot be in time.

    Args:
        grain_ms: of the data set.
        lag_ms: of the data set.
        run_type: of the Dag run.
        due: when the partition closed.
        begun: when the run was made.
    """
    return run_type == SCHEDULED and instant_ms(begun) < instant_ms(due) + max(grain_ms, lag_ms)


def instant_ms(instant: datetime) -> int:
    """Epoch milliseconds; a naive time is taken as UTC."""
    return int((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1000)


def _of_text(clock: PartitionClock, text: str, what: str) -> str:
    if len(text) > len("2023-05-25T1310"):
        try:
            start = instant_ms(datetime.fromisoformat(text))
        except ValueError as error:
            raise StepError(f"{what} {text!r} is no time; allowed: {clock.part_of(1_700_000_000_000)}") from error
        if clock.floor(start) != start:
            raise StepError(
                f"{what} {text!r} is no start of a partition; the one that holds it: {clock.part_of(start)}"
            )
        return clock.part_of(start)
    clock.start(text)
    return text
