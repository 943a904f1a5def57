"""Spaces: every value survives its encoding, neighbours differ and are valid, errors name what does not fit."""

from functools import partial

import numpy as np
import pytest

from search.errors import ConfigurationError, HistoryError, SpaceError
from search.graphs import Dag, Graph
from search.parameters import Categorical, Float, Integer, LogFloat
from search.space import SearchSpace, config_key
from search.trial import Outcome, Trial, best, value
from tests.search.objectives import bowl_space, mixed_space


def test_encoding_round_trip_and_mutation():
    space, rng = mixed_space(), np.random.default_rng(0)
    for _ in range(300):
        config = space.sample(rng)
        vector = space.encode(config)
        assert vector.shape == (space.width,)
        assert vector.min() >= 0
        assert vector.max() <= 1
        back = space.decode(vector)
        assert {**back, "rate": 0, "dropout": 0} == {**config, "rate": 0, "dropout": 0}
        assert back["rate"] == pytest.approx(config["rate"])
        changed = space.mutate(config, rng)
        space.validate(changed)
        assert sum(changed[name] != config[name] for name in config) == 1


def test_any_vector_decodes_to_a_valid_configuration():
    space, rng = mixed_space(), np.random.default_rng(1)
    for _ in range(300):
        space.validate(space.decode(rng.normal(size=space.width) * 3))


def test_factors_assemble_valid_configurations_and_reach_every_choice():
    space, rng = mixed_space(), np.random.default_rng(2)
    seen = set()
    for _ in range(300):
        config = space.assemble([int(rng.integers(size)) for size in space.factors])
        space.validate(config)
        seen |= {config["act"], len(config["body"]["kinds"]), *config["body"]["kinds"]}
    assert seen == {"relu", "gelu", "tanh", 2, 3, 4, 5, "mlp", "cross", "sum"}


def test_sampling_is_deterministic():
    space = mixed_space()
    first, second = (space.sample(np.random.default_rng(5)) for _ in range(2))
    assert config_key(first) == config_key(second)


def test_scales():
    rate, layers = LogFloat("rate", 1e-4, 1e-2), Integer("layers", 1, 3)
    assert rate.encode(1e-3)[0] == pytest.approx(0.5)
    assert rate.assemble([0]) == pytest.approx(1e-4)
    assert rate.assemble([7]) == pytest.approx(1e-2)
    assert [layers.decode(np.array([place])) for place in (-5, 0.5, 9)] == [1, 2, 3]
    assert isinstance(layers.decode(np.array([0.4])), int)


def test_graph_outputs_are_the_blocks_that_no_other_reads():
    graph = Graph(("mlp", "cross", "sum"), ((0,), (0,), (0, 2)))
    assert graph.outputs == (1, 3)
    assert Graph.from_value(graph.to_value()) == graph


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act": "elu"}, "act: got 'elu'; allowed: one of"),
        ({"layers": 21}, "layers: got 21; allowed: a whole number from 1 to 20"),
        ({"layers": True}, "layers: got True"),
        ({"rate": float("nan")}, "rate: got nan"),
        ({"body": {"kinds": ["mlp"], "inputs": [[0]]}}, "allowed: 2 to 5 of each"),
        ({"body": {"kinds": ["mlp", "fm"], "inputs": [[0], [1]]}}, "got 'fm'; allowed: block 2 one of"),
        ({"body": {"kinds": ["mlp", "sum"], "inputs": [[0], [2]]}}, r"inputs of block 2: some of 0 \.\. 1"),
        ({"body": {"kinds": ["mlp", "sum"], "inputs": [[0], []]}}, "inputs of block 2"),
        ({"extra": 1}, "a configuration of this space has"),
    ],
)
def test_wrong_configurations_are_named(change, message):
    space = mixed_space()
    config = space.sample(np.random.default_rng(0)) | change
    with pytest.raises(ConfigurationError, match=message):
        space.validate(config)
    assert not space.allows(config)


def test_rules():
    space = SearchSpace(
        [Integer("a", 0, 9), Integer("b", 0, 9)], rules=[lambda c: "a must exceed b" if c["a"] <= c["b"] else None]
    )
    rng = np.random.default_rng(0)
    for _ in range(50):
        config = space.mutate(space.sample(rng), rng)
        assert config["a"] > config["b"]
    with pytest.raises(ConfigurationError, match="a must exceed b; got"):
        space.validate({"a": 1, "b": 1})


def test_a_space_without_a_valid_point_says_so():
    space = SearchSpace([Float("x", 0, 1)], rules=[lambda config: "x is never right"])
    with pytest.raises(SpaceError, match=r"no valid configuration in 1000 random ones.*x is never right"):
        space.sample(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SearchSpace([]), "needs parameters of different names"),
        (lambda: SearchSpace([Float("x", 0, 1), Float("x", 0, 1)]), "different names"),
        (lambda: Categorical("c", ()), "c: got choices"),
        (lambda: Float("x", 1, 0), "x: got low 1, high 0"),
        (lambda: LogFloat("x", 0, 1), "allowed on a logarithmic scale: above 0"),
        (lambda: Dag("g", ("mlp",), 3, 2), "1 <= smallest <= largest"),
    ],
)
def test_impossible_spaces(make, message):
    with pytest.raises(SpaceError, match=message):
        make()


def test_fingerprint_tells_spaces_apart():
    assert mixed_space().fingerprint == mixed_space().fingerprint != bowl_space().fingerprint


def test_fingerprint_tells_rules_apart():
    class Bound:
        pass

    def below(most, config):
        return "a too large" if config["a"] > most else None

    def closed(most):
        return lambda config: below(most, config)

    rules = [
        [],
        [lambda config: "a is 3" if config["a"] == 3 else None],
        [lambda config: "a is 4" if config["a"] == 4 else None],
        *([partial(below, most)] for most in (3, 4)),
        *([closed(most)] for most in (3, 4)),
    ]
    found = [SearchSpace([Integer("a", 0, 9)], rules=rule).fingerprint for rule in rules]
    assert len(set(found)) == len(rules)
    again = [SearchSpace([Integer("a", 0, 9)], rules=[partial(below, Bound())]).fingerprint for _ in range(2)]
    assert again[0] == again[1], "an address is no part of it"


def test_cost():
    space = SearchSpace([Integer("a", 0, 9)], cost=lambda config: 2.0 * config["a"])
    assert space.cost({"a": 3}) == 6.0
    assert bowl_space().cost({}) == 1.0


def test_history_of_another_space():
    with pytest.raises(HistoryError, match="trial 4 is of another space: a configuration of this space has"):
        bowl_space().check_history([Trial(4, {"z": 1})])


def test_trials():
    trial = Trial(0, {"x": 1}).finished(Outcome(0.5, 3.0, (0.7, 0.5), 2.0))
    failed = Trial(1, {"x": 2}).failed("broke")
    assert Trial.from_json(trial.to_json()) == trial
    assert best([failed, trial]) == trial
    assert best([failed]) is None
    with pytest.raises(ValueError, match="trial 1 is failed"):
        value(failed)
