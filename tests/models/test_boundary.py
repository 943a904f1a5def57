"""Boundaries of reads: what they do in training, and that serving sees no dice."""

import pytest
import torch

from models.boundary import AgedBoundary, NormedBoundary, make_boundary
from models.config import AgeDropoutBoundary, NormBoundary, ReaderConfig
from models.readers import HistoryReader
from models.vm_data import HistoryBatch, TokenBatch
from tests.models.test_readers import TABLE, make_pool
from tests.models.vm_files import HOUR, INPUTS, START


def tokens_of_ages(ages):
    """One row an age: its newest token is an hour old, the oldest of that age, and a masked place is older still."""
    rows = len(ages)
    hours = torch.stack([torch.ones(rows), torch.tensor(ages), torch.full((rows,), 1e6)], dim=1)
    mask = torch.tensor([[True, True, False]] * rows)
    none = torch.zeros(rows, 3, 1)
    return TokenBatch(mask, hours, none, none, None, None, None)


def test_young_keys_read_as_empty_as_often_as_the_formula_says():
    boundary = make_boundary(AgeDropoutBoundary(rate=0.8, half_life_hours=10.0), 2)
    assert isinstance(boundary, AgedBoundary)
    ages, rows = [1.0, 10.0, 40.0], 6000
    tokens = tokens_of_ages([age for age in ages for _ in range(rows)])
    torch.manual_seed(0)
    read = boundary(torch.ones(3 * rows, 4), torch.ones(3 * rows, 1), tokens)
    empty = (read == 0).all(dim=1)
    assert ((read == 1).all(dim=1) | empty).all()
    for place, age in enumerate(ages):
        share = float(empty[place * rows : (place + 1) * rows].float().mean())
        assert share == pytest.approx(0.8 * 2 ** (-age / 10), abs=0.02)


def test_serving_drops_nothing():
    boundary = make_boundary(AgeDropoutBoundary(rate=0.9), 2).eval()
    read = boundary(torch.ones(50, 4), torch.ones(50, 1), tokens_of_ages([1.0] * 50))
    assert (read == 1).all()


def test_the_norm_is_each_pooled_vectors_own_and_counts_pass():
    boundary = make_boundary(NormBoundary(dropout=0.0), 3)
    assert isinstance(boundary, NormedBoundary)
    pooled = torch.randn(5, 6) * 7 + 2
    read = boundary(pooled, torch.full((5, 1), 0.3), tokens_of_ages([1.0] * 5))
    for row in range(5):
        for at in (0, 3):
            vector = pooled[row, at : at + 3]
            expected = (vector - vector.mean()) / (vector.var(unbiased=False) + 1e-5).sqrt()
            torch.testing.assert_close(read[row, at : at + 3], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read[:, 6:], torch.full((5, 1), 0.3))


@pytest.mark.parametrize("settings", [NormBoundary(dropout=0.5), AgeDropoutBoundary(), None])
def test_empty_histories_stay_exact_zeros(settings):
    config = ReaderConfig(key="item", dim=6, kinds=["mean", "decayed"], boundary=settings)
    reader = HistoryReader(config, INPUTS, TABLE.shape[1], lambda rows: TABLE[rows])
    event_ts = torch.full((2,), START + 120 * HOUR)
    for mode in (True, False):
        reader.train(mode)
        read = reader([HistoryBatch(torch.tensor([0, 1]), make_pool([3]))], event_ts, torch.zeros(2, 0))
        assert read.shape == (2, reader.width)
        assert (read[0] == 0).all()
    assert (read[1] != 0).any()
