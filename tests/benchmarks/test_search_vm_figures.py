"""Figures of search_vm: a run that is not the protocol says so, and a search without a winner is no winner."""

import math

import numpy as np
import pytest

from benchmarks.harness import Report
from benchmarks.search_vm_figures import (
    Compared,
    Retrained,
    add_acceptable,
    add_differences,
    add_protocol,
    add_spent,
    chosen_within,
    within,
)
from models.bootstrap import paired_difference
from search.ens.proposer import Acceptable
from search.trial import Outcome, Trial
from tests.models.test_metrics import make_scores

BAR = Acceptable(0.8, 100.0)


def trials(count, spent=2.0, ne=0.9, flops=50.0):
    return [Trial(i, {}).finished(Outcome(ne, flops, spent=spent)) for i in range(count)]


def retrained(skill, seeds=3, flops=90.0, first=0):
    """A VM whose scores follow the label by ``skill``."""
    rows = make_scores(seed=5, n=400, users=30)
    noise = [np.random.default_rng(first + seed).random(len(rows)) for seed in range(seeds)]
    return Retrained([rows.with_p(np.clip(skill * rows.label + (1 - skill) * p, 0.01, 0.99)) for p in noise], flops)


def search(seed, ours=0.6, **changes):
    """A search whose winner beats the hand-set VM and random's."""
    first = 10 * seed
    winners = {"predictor": ours and retrained(ours, first=first), "random": retrained(0.45, first=first)}
    histories = {"predictor": trials(100), "random": trials(100, spent=3.0), "ens": trials(100)}
    fields = {"histories": histories, "bar": BAR, "budget": 200.0, "winners": winners}
    return Compared(**{**fields, "hand": retrained(0.4, flops=100.0, first=first), **changes})


def figures(compared):
    report = Report("search_vm", say=lambda line: None)
    add_protocol(compared, report)
    add_differences("predictor", compared, report)
    return {figure.name: figure for figure in report.figures}


def test_the_protocol_is_met_by_what_was_run():
    found = figures([search(0), search(1, ours=0.7), search(2)])
    assert [name for name, figure in found.items() if not figure.ok] == []
    sizes = ("searches", "trials", "retrains", "winner_flops_over_hand", "searches_without_winner")
    assert [found[name].value for name in sizes] == [3, 100, 3, 0.9, 0]
    assert found["predictor_test_ne"].value < found["random_test_ne"].value < found["hand_test_ne"].value
    assert found["predictor_minus_hand_ne_high"].value < 0


TWICE = search(2, hand=retrained(0.4, 2), winners={"predictor": retrained(0.6, 2), "random": None})


@pytest.mark.parametrize(
    ("compared", "short"),
    [
        ([search(0), search(1)], {"searches"}),
        ([search(0), search(1), search(2, histories={"predictor": trials(100), "random": trials(99)})], {"trials"}),
        ([search(0), search(1), TWICE], {"retrains", "searches_without_winner"}),
        ([search(0), search(1), search(2, hand=retrained(0.4, flops=89.0))], {"winner_flops_over_hand"}),
        ([search(0), search(1, ours=None), search(2)], {"searches_without_winner"}),
    ],
)
def test_what_is_not_the_protocol_is_short(compared, short):
    assert {name for name, figure in figures(compared).items() if not figure.ok} == short


def test_searches_without_a_winner_are_left_out_and_nothing_stands_in_for_them():
    compared = [search(0), search(1, ours=None), search(2, ours=0.7)]
    found = figures(compared)
    pairs = [(one.winners["predictor"], one.hand) for one in (compared[0], compared[2])]
    a, b = ([s for pair in pairs for s in pair[side].scores] for side in (0, 1))
    expected = paired_difference("ne", a, b, 400, groups=[0, 0, 0, 2, 2, 2])
    names = [f"predictor_minus_hand_ne{end}" for end in ("", "_low", "_high")]
    assert [found[name].value for name in names] == list(expected[:3])
    none = figures([search(seed, ours=None) for seed in range(3)])
    for name in (*names, "predictor_test_ne", "predictor_minus_random_ne"):
        assert math.isnan(none[name].value)
    short = {name for name, figure in none.items() if not figure.ok}
    assert short == {"searches_without_winner", "predictor_minus_hand_ne_high", "predictor_minus_random_ne"}


def test_what_was_spent_and_the_cut_are_shown():
    report = Report("search_vm", say=lambda line: None)
    add_spent(1, search(0), report)
    assert {figure.name: figure.value for figure in report.figures} == {
        "predictor_1_sample_epochs": 200.0,
        "random_1_sample_epochs": 300.0,
        "ens_1_sample_epochs": 200.0,
        "equal_budget_1_sample_epochs": 200.0,
    }


def test_acceptable_ones_are_counted_in_the_sample_epochs_of_the_cheaper_search():
    histories = {"predictor": trials(2), "ens": trials(10, ne=0.7), "random": trials(10, spent=4.0, ne=0.8)}
    report = Report("search_vm", say=lambda line: None)
    add_acceptable([search(0, histories=histories), search(1, histories=histories)], report)
    assert [figure.value for figure in report.figures] == [20, 10, 10]


def test_a_winner_fits_the_sample_epochs_and_the_flops():
    ne, flops = [0.9, 0.8, 0.7, 0.6], [5.0, 5.0, 50.0, 5.0]
    history = [Trial(i, {}).finished(Outcome(ne[i], flops[i], spent=10.0)) for i in range(4)]
    assert chosen_within(history, budget=30, flops=10).id == 1
    assert chosen_within(history, budget=40, flops=10).id == 3
    assert chosen_within(history, budget=40, flops=np.inf).id == 3
    assert chosen_within(history, budget=5, flops=10) is None
    assert within(history, 25) == history[:2]
