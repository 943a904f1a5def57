"""The NumPy core against a slow, obvious reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.asof_core import NEVER, Contributions, Timeline, newest, rank_and_difference

FAR = 250_000_000_000_000
instants = st.one_of(st.integers(0, 12), st.sampled_from([-FAR, FAR]))
contribution = st.tuples(st.integers(0, 3), instants, st.integers(0, 6), st.integers(-5, 5))
query = st.tuples(st.integers(-1, 4), st.integers(-2, 20))


def columns(rows, width):
    return [np.array([row[i] for row in rows], dtype=np.int64) for i in range(width)]


def timeline(rows, queries):
    key, event, delay, units = columns(rows, 4)
    return Timeline(Contributions(key, event, event + delay, units), *columns(queries, 2))


@settings(max_examples=300, deadline=None)
@given(st.lists(contribution, max_size=25), st.lists(query, max_size=12), st.sampled_from([None, 0, 1, 3, 7, 40]))
def test_sums_hold_what_is_available_and_inside_the_window(rows, queries, window):
    expected = [
        sum(u for k, e, d, u in rows if k == key and e + d <= tau and (window is None or e >= tau - window))
        for key, tau in queries
    ]
    assert timeline(rows, queries).sums(window).tolist() == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(contribution, max_size=25), st.lists(query, max_size=12))
def test_first_is_the_earliest_visible_event(rows, queries):
    expected = [min((e for k, e, d, _ in rows if k == key and e + d <= tau), default=NEVER) for key, tau in queries]
    assert timeline(rows, queries).first().tolist() == expected


def test_many_keys_over_a_stray_date_stay_exact():
    keys = np.arange(200_000, dtype=np.int64)
    event = np.where(keys == 77, FAR, keys % 50)
    seen = Contributions(keys, event, event + 1, keys + 1)
    line = Timeline(seen, keys, np.full(len(keys), 30, dtype=np.int64))
    visible = event < 30
    assert (line.sums(10) == np.where(visible & (event >= 20), keys + 1, 0)).all()
    assert (line.first() == np.where(visible, event, NEVER)).all()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(1, 30)), max_size=40),
    st.lists(query, max_size=12),
    st.integers(1, 4),
)
def test_newest_walks_past_events_that_are_not_visible_yet(rows, queries, length):
    rows = sorted(rows, key=lambda row: row[:2])
    key, event, delay = columns(rows, 3)
    found = newest(key, event, event + delay, *columns(queries, 2), length)
    for (wanted, tau), got in zip(queries, found.tolist(), strict=True):
        visible = [i for i, (k, e, d) in enumerate(rows) if k == wanted and e + d <= tau]
        expected = visible[::-1][:length]
        assert got == expected + [-1] * (length - len(expected))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 3), st.sampled_from([0.0, 0.1, 0.25, 3.0, -1.0])), max_size=20))
def test_rank_counts_higher_values_and_difference_is_from_the_mean(rows):
    group = np.array([g for g, _ in rows], dtype=np.int64)
    values = np.array([v for _, v in rows], dtype=np.float32)
    rank, difference = rank_and_difference(group, np.arange(len(rows)), values)
    for i, (g, _) in enumerate(rows):
        peers = values[group == g].astype(np.float64)
        assert rank[i] == (0 if g < 0 else (peers > values[i]).sum())
        assert difference[i] == pytest.approx(0 if g < 0 else float(values[i]) - peers.mean(), abs=1e-6)


def test_difference_does_not_depend_on_the_order_of_rows():
    values = np.random.default_rng(3).random(64).astype(np.float32)
    order = np.arange(64)
    mixed = np.random.default_rng(4).permutation(64)
    straight = rank_and_difference(np.zeros(64, dtype=np.int64), order, values)[1]
    shuffled = rank_and_difference(np.zeros(64, dtype=np.int64), order[mixed], values[mixed])[1]
    assert (straight[mixed] == shuffled).all()
