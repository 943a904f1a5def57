from types import SimpleNamespace

import pytest

from models.errors import ModelConfigError
from models.kd_choice import choose_kd_weight


def trainings(ne_of):
    asked = []

    def fit(weight):
        asked.append(weight)
        return SimpleNamespace(metrics={"ne": ne_of[weight]}, weight=weight)

    return fit, asked


def test_the_lowest_validation_ne_wins():
    fit, asked = trainings({0.0: 0.92, 0.3: 0.90, 1.0: 0.91})
    choice = choose_kd_weight([1.0, 0.0, 0.3, 0.3], fit)
    assert asked == [0.0, 0.3, 1.0]
    assert (choice.weight, choice.result.weight) == (0.3, 0.3)
    assert choice.validation_ne == {0.0: 0.92, 0.3: 0.90, 1.0: 0.91}


def test_zero_wins_where_distillation_hurts_or_does_nothing():
    assert choose_kd_weight([0.3, 0.0], trainings({0.0: 0.90, 0.3: 0.91})[0]).weight == 0
    assert choose_kd_weight([0.3, 0.0], trainings({0.0: 0.90, 0.3: 0.90})[0]).weight == 0


def test_no_weight_is_an_error():
    with pytest.raises(ModelConfigError, match="at least one weight"):
        choose_kd_weight([], trainings({})[0])
