"""The methods of a VM search by name."""

from __future__ import annotations

from collections.abc import Callable

from search.ens.proposer import Acceptable, ActiveSearch
from search.errors import SpaceError
from search.evolution import RegularizedEvolution
from search.predictor.proposer import PredictorSearch, PredictorSettings
from search.proposer import Proposer
from search.random_search import RandomSearch
from search.space import SearchSpace

FLOPS_WEIGHT = 0.2
"""Of the predictor's reward: NE first, and among equals the cheaper VM."""
FIRST_SHARE = 0.5
"""Of a whole training that the trials before the predictor's first fit get: the paper's half."""


def _predictor(space: SearchSpace, seed: int, bar: Acceptable) -> Proposer:
    del bar
    settings = PredictorSettings(flops_weight=FLOPS_WEIGHT, first_share=FIRST_SHARE)
    return PredictorSearch(space, seed, settings)


def _evolution(space: SearchSpace, seed: int, bar: Acceptable) -> Proposer:
    del bar
    return RegularizedEvolution(space, seed)


def _random(space: SearchSpace, seed: int, bar: Acceptable) -> Proposer:
    del bar
    return RandomSearch(space, seed)


def _ens(space: SearchSpace, seed: int, bar: Acceptable) -> Proposer:
    return ActiveSearch(space, bar, seed)


def _binoculars(space: SearchSpace, seed: int, bar: Acceptable) -> Proposer:
    del bar
    # BoTorch takes seconds to import: only where a Gaussian process is asked for.
    from search.binoculars.proposer import BinocularsSearch

    return BinocularsSearch(space, seed)


def _multi_step(space: SearchSpace, seed: int, bar: Acceptable) -> Proposer:
    del bar
    from search.multi_step.proposer import MultiStepSearch

    return MultiStepSearch(space, seed)


def _dvae(space: SearchSpace, seed: int, bar: Acceptable) -> Proposer:
    del bar
    from search.dvae.proposer import DvaeSearch

    return DvaeSearch(space, seed)


METHODS: dict[str, Callable[[SearchSpace, int, Acceptable], Proposer]] = {
    "predictor": _predictor,
    "evolution": _evolution,
    "random": _random,
    "ens": _ens,
    "binoculars": _binoculars,
    "multi_step": _multi_step,
    "dvae": _dvae,
}


def make_proposer(name: str, space: SearchSpace, seed: int, bar: Acceptable) -> Proposer:
    """A method on a space.

    Args:
        bar: what a configuration must reach to be worth keeping, for methods that collect many.

    Raises:
        SpaceError: no method of that name, or the space does not fit it.
    """
    check_method(name)
    return METHODS[name](space, seed, bar)


def check_method(name: str) -> None:
    """Raise SpaceError, listing the methods, unless ``name`` is one."""
    if name not in METHODS:
        raise SpaceError(f"method {name!r}: there is none of that name; there are {sorted(METHODS)}")
