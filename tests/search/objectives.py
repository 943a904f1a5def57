"""Objectives at module level, so that worker processes can unpickle them."""

import os
import time
from pathlib import Path

from search.graphs import Dag
from search.parameters import Categorical, Float, Integer, LogFloat
from search.space import SearchSpace
from search.trial import Outcome


def bowl_space() -> SearchSpace:
    return SearchSpace([Float("x", -1.0, 1.0), Float("y", -1.0, 1.0), Categorical("shift", (0, 1, 2))])


def mixed_space() -> SearchSpace:
    return SearchSpace(
        [
            Categorical("act", ("relu", "gelu", "tanh")),
            Integer("layers", 1, 20),
            LogFloat("rate", 1e-4, 1e-1),
            Float("dropout", 0.0, 0.5),
            Dag("body", ("mlp", "cross", "sum"), 2, 5),
        ]
    )


def bowl(config, trial_id):
    del trial_id
    ne = (config["x"] - 0.3) ** 2 + (config["y"] + 0.2) ** 2 + config["shift"]
    return Outcome(ne, flops=10.0, curve=(ne + 1.0, ne), spent=2.0)


class Overtaking:
    """NE falls in a line over ``EPOCHS`` epochs; after half of them the best of the end are the worst."""

    EPOCHS = 8

    def __call__(self, config, trial_id):
        return self.short(config, trial_id, 1.0)

    def short(self, config, trial_id, share):
        """See ``ShortObjective.short``."""
        del trial_id
        end, epochs = sum(config.values()), round(share * self.EPOCHS)
        slope = (60 - 4 * end) / self.EPOCHS
        curve = tuple(end + slope * (self.EPOCHS - epoch) for epoch in range(1, epochs + 1))
        horizon = None if epochs == self.EPOCHS else self.EPOCHS
        return Outcome(curve[-1], 1.0, curve, float(epochs), horizon)


def faulty(config, trial_id):
    """Every way in which a trial can fail, by its id."""
    if trial_id == 1:
        raise ValueError("no such table")
    if trial_id == 2:
        return Outcome(float("nan"))
    if trial_id == 3:
        time.sleep(60)
    if trial_id == 4:
        os._exit(7)
    return bowl(config, trial_id)


def slow_bowl(config, trial_id):
    """The bowl; each evaluation leaves a line in the file that BOWL_LOG names."""
    with Path(os.environ["BOWL_LOG"]).open("a") as log:
        log.write(f"{trial_id}\n")
    time.sleep(0.05)
    return bowl(config, trial_id)
