"""The public tables are read as spaces whose every row is a configuration; peers keep their contract."""

import pytest

from benchmarks.harness import MissingDataError
from benchmarks.peers import search_peers
from benchmarks.peers.search_peers import AxSearch, TpeSearch
from benchmarks.search_tables import TABLES, nas_bench_201
from search.driver import Search
from search.errors import SpaceError
from search.parameters import Float
from search.space import SearchSpace, config_key

ROWS = {"enas": 19_020, "nb201_cifar100": 15_625, "nasbench_graph_arxiv": 26_206}


@pytest.mark.parametrize("name", list(TABLES))
def test_every_row_is_a_configuration_of_its_space(name):
    try:
        table = TABLES[name]()
    except MissingDataError as reason:
        pytest.skip(str(reason))
    assert len(table.configs) == len(table.ne) == len(table.flops) == ROWS[name]
    for config in table.configs[::500]:
        table.space.validate(config)
    assert len({config_key(config) for config in table.configs}) > 0.98 * ROWS[name]
    outcome = table.objective()(table.configs[7], 0)
    assert outcome.ne in table.ne


def test_the_best_of_nas_bench_201_is_the_published_one():
    assert 100 - nas_bench_201().ne.min() == pytest.approx(73.493, abs=1e-3)


def test_tpe_behind_the_contract():
    table = nas_bench_201()
    history = Search(TpeSearch(table.space, seed=0), table.objective(), budget=12).run()
    assert len({trial.ne for trial in history}) > 6
    with pytest.raises(SpaceError, match="categorical parameters only"):
        TpeSearch(SearchSpace([Float("x", 0, 1)]), seed=0)


@pytest.mark.slow
def test_ax_models_what_it_was_told(monkeypatch):
    """Left to itself, Ax draws quasi-random points of such a space for ever."""
    monkeypatch.setattr(search_peers, "AX_INITIAL", 3)
    table = nas_bench_201()
    search = AxSearch(table.space, seed=0)
    history = Search(search, table.objective(), budget=5).run()
    assert [trial.state for trial in history] == ["done"] * 5
    made_by = [search.client.get_trial(i).generator_run._generator_key for i in range(5)]
    assert made_by == ["Sobol"] * 3 + ["BO_MIXED"] * 2
