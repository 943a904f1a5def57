"""What the D-VAE's benchmark measures with: scores of networks, regressions, and the graphs of its tasks."""

import time

import numpy as np
import pytest

from benchmarks import dvae_regression, dvae_speed
from benchmarks.dvae_speed import training_seconds
from benchmarks.dvae_tasks import Bic, asia, network_task, vm_task
from benchmarks.peers.dvae_loop import loop_loss
from search.dvae.config import DvaeConfig
from search.dvae.model import Dvae


@pytest.fixture(scope="module")
def patients():
    return asia(400)


def test_bic_is_that_of_the_peer(patients):
    """pgmpy leaves constant columns' states to the data, as we do."""
    import pandas as pd
    from pgmpy.base import DAG
    from pgmpy.structure_score import BIC

    edges = [[0, 5], [1, 3], [2, 5], [6, 2], [6, 1], [5, 7]]
    frame = pd.DataFrame(patients, columns=list("abcdefgh"))
    network = DAG()
    network.add_nodes_from(frame.columns)
    network.add_edges_from((frame.columns[u], frame.columns[v]) for u, v in edges)
    assert Bic(patients)(edges) * len(patients) == pytest.approx(BIC(frame).score(network), rel=1e-9)


def test_an_edge_between_variables_that_depend_is_worth_its_parameters(patients):
    score, columns = Bic(patients), sorted(["asia", "tub", "smoke", "lung", "bronc", "either", "xray", "dysp"])
    lung, either, asia_visit, bronchitis = (columns.index(name) for name in ("lung", "either", "asia", "bronc"))
    assert score([[lung, either]]) > score([]) > score([[asia_visit, bronchitis]])


def test_tasks_hold_different_valid_graphs_and_their_targets(patients):
    task = network_task(60, patients)
    assert (len(task.train), len(task.test), len(set(task.train + task.test))) == (54, 6, 60)
    assert task.train_y[3] == Bic(patients)(task.config(task.train[3])["network"])
    assert task.raw(task.test).shape == (6, task.space.width)
    bodies = vm_task(40)
    assert all(bodies.codec.to_values(dag) is not None for dag in bodies.train + bodies.test)
    assert not len(bodies.train_y)


@pytest.mark.parametrize("method", ["ridge", "sparse", "exact", "boosting"])
def test_regressions_follow_a_line(method):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 3))
    y = X @ [1.0, -0.5, 0.2]
    more = {"sparse": (20, 80), "exact": (100,)}.get(method, ())
    predict = {"sparse": dvae_regression.sparse_gp, "exact": dvae_regression.exact_gp}.get(method)
    predict = predict or getattr(dvae_regression, method)
    found = dvae_regression.judge(predict(X[:250], y[:250], X[250:], *more), y[250:])
    assert found.rmse < 0.4
    assert found.r > 0.95


def test_a_judgement():
    found = dvae_regression.judge(np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0]))
    assert (found.rmse, found.r) == (pytest.approx(1.0), pytest.approx(1.0))


def test_both_trainings_take_the_same_batches_and_no_time_is_extrapolated(monkeypatch):
    task, seen = vm_task(50), {"batched": [], "loop": []}
    config = DvaeConfig(types=task.codec.types, max_vertices=task.codec.max_vertices, hidden=8, latent=4)

    class Seen(Dvae):
        def loss(self, batch, noise):
            seen["batched"].append((list(batch.dags()), noise))
            return super().loss(batch, noise)

    def seen_loop(model, dags, noise):
        seen["loop"].append((list(dags), noise))
        return loop_loss(model, dags, noise)

    monkeypatch.setattr(dvae_speed, "Dvae", Seen)
    monkeypatch.setattr(dvae_speed, "loop_loss", seen_loop)
    start = time.process_time()
    found = training_seconds(config, task.train, 20, 4)
    assert found["batches"] == 3, "45 graphs are three batches"
    assert 0 < found["batched"] + found["loop"] <= time.process_time() - start
    assert [dags for dags, _ in seen["batched"]] == [dags for dags, _ in seen["loop"]]
    assert [dag for dags, _ in seen["loop"] for dag in dags] == task.train
    assert all((ours == theirs).all() for (_, ours), (_, theirs) in zip(*seen.values(), strict=True))
