from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from feature_store.clocks import DAY_MS, MINUTE_MS, PartitionClock, available_at, duration_ms
from feature_store.errors import ContractError

MINUTES = [m for m in range(10, 1441) if 1440 % m == 0]
INSTANTS = st.integers(min_value=0, max_value=4_000_000_000_000)
CLOCKS = st.builds(
    PartitionClock,
    st.sampled_from(MINUTES).map(lambda m: m * MINUTE_MS),
    st.integers(min_value=0, max_value=1439).map(lambda m: m * MINUTE_MS),
)
LAGS = st.integers(min_value=0, max_value=3 * DAY_MS)


def slow_floor(clock: PartitionClock, instant: int) -> int:
    """Walks the borders of the days around ``instant``, as datetimes."""
    moment = datetime.fromtimestamp(0, tz=UTC) + timedelta(milliseconds=instant)
    border = moment.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    border += timedelta(milliseconds=clock.offset_ms % clock.grain_ms)
    grain = timedelta(milliseconds=clock.grain_ms)
    while border + grain <= moment:
        border += grain
    return round((border - datetime.fromtimestamp(0, tz=UTC)) / timedelta(milliseconds=1))


@given(CLOCKS, INSTANTS)
@example(PartitionClock(DAY_MS), 0)
@example(PartitionClock(10 * MINUTE_MS, 7 * MINUTE_MS), 7 * MINUTE_MS)
def test_floor_and_close_equal_a_walk_over_borders(clock, instant):
    assert clock.floor(instant) == slow_floor(clock, instant)
    assert clock.close(instant) == slow_floor(clock, instant) + clock.grain_ms
    assert clock.floor(clock.floor(instant)) == clock.floor(instant)


@given(CLOCKS, INSTANTS, LAGS)
def test_as_of_is_the_floor_of_the_lagged_instant(clock, instant, lag):
    assume(instant >= lag)
    assert clock.as_of(instant, lag) == slow_floor(clock, instant - lag)


@given(CLOCKS, INSTANTS, INSTANTS, LAGS)
def test_readable_iff_the_arrival_partition_has_closed_and_the_lag_passed(clock, arrived, event_ts, lag):
    near = event_ts - (arrived % (3 * clock.grain_ms)) if arrived % 2 else arrived
    assume(near >= 0)
    readable = clock.close(near) <= clock.as_of(event_ts, lag)
    assert readable == (clock.end(clock.part_of(near)) + lag <= event_ts)


@given(CLOCKS, st.lists(INSTANTS, min_size=1, max_size=20), LAGS)
def test_arrays_and_scalars_agree(clock, instants, lag):
    array = np.array(instants, np.int64)
    assert clock.floor(array).tolist() == [clock.floor(i) for i in instants]
    assert clock.close(array).tolist() == [clock.close(i) for i in instants]
    assert clock.as_of(array, lag).tolist() == [clock.as_of(i, lag) for i in instants]


@given(CLOCKS, INSTANTS, INSTANTS)
def test_part_text_round_trips_and_sorts_like_time(clock, one, two):
    first, second = clock.part_of(one), clock.part_of(two)
    assert clock.start(first) == clock.floor(one)
    assert clock.end(first) == clock.close(one)
    assert clock.part_of(clock.start(first)) == first
    assert (first < second) == (clock.floor(one) < clock.floor(two))


@given(CLOCKS, INSTANTS, st.integers(min_value=-50, max_value=50))
def test_next_steps_by_partitions(clock, instant, count):
    part = clock.part_of(instant + 100 * DAY_MS)
    assert clock.start(clock.next(part, count)) == clock.start(part) + count * clock.grain_ms
    if count >= 0:
        parts = clock.between(part, clock.next(part, count))
        assert len(parts) == count + 1
        assert parts == sorted(set(parts))


@given(CLOCKS, INSTANTS)
def test_a_day_widens_to_exactly_its_partitions(clock, instant):
    day = PartitionClock(DAY_MS).part_of(instant)
    parts = clock.between(*clock.span(day, day))
    assert len(parts) == DAY_MS // clock.grain_ms or clock.grain_ms == DAY_MS
    assert clock.end(parts[-1]) - clock.start(parts[0]) == len(parts) * clock.grain_ms == DAY_MS


@pytest.mark.parametrize(
    ("grain", "offset", "text"),
    [
        ("1d", "0s", "2023-05-25"),
        ("1h", "0s", "2023-05-25T13"),
        ("10m", "0s", "2023-05-25T1310"),
        ("1d", "2h", "2023-05-25T02"),
    ],
)
def test_formats(grain, offset, text):
    instant = int(datetime(2023, 5, 25, 13, 17, tzinfo=UTC).timestamp() * 1000)
    assert PartitionClock(duration_ms(grain), duration_ms(offset)).part_of(instant) == text


@pytest.mark.parametrize("text", ["2023-05-25T13", "2023-13-01", "25.5.2023", "2023-02-30", ""])
def test_other_text_is_refused(text):
    with pytest.raises(ContractError, match="got partition"):
        PartitionClock(DAY_MS).start(text)


@pytest.mark.parametrize("grain", [0, MINUTE_MS, 7 * MINUTE_MS, 11 * MINUTE_MS, 2 * DAY_MS, 10 * MINUTE_MS + 1])
def test_grain_divides_a_day(grain):
    with pytest.raises(ContractError, match="divisor of a day"):
        PartitionClock(grain)


@pytest.mark.parametrize("text", ["1", "d", "1.5h", "-1h", "1w", ""])
def test_durations_name_what_is_allowed(text):
    with pytest.raises(ContractError, match="a whole number and a unit"):
        duration_ms(text)


@given(INSTANTS, LAGS, INSTANTS, LAGS)
def test_a_token_waits_for_batch_and_training(arrival_end, lag, cutoff, training_lag):
    expected = max(arrival_end + lag, cutoff + training_lag)
    assert available_at(arrival_end, lag, cutoff, training_lag) == expected
    assert available_at(np.array([arrival_end]), lag, cutoff, training_lag).tolist() == [expected]


def test_a_range_runs_forward():
    with pytest.raises(ContractError, match="its end lies before its start"):
        PartitionClock(DAY_MS).between("2026-01-02", "2026-01-01")
