"""BINOCULARS: EI in the limit, plans of a batch, and quadrature."""

import numpy as np
import pytest
import torch
from botorch.acquisition import ExpectedImprovement

from benchmarks.search_binoculars import Mixture
from search.binoculars.integral_plan import IntegralPlan
from search.binoculars.proposer import Binoculars, best_batch
from search.binoculars.quadrature import WarpedBelief, integrate, next_point, spread_out
from search.errors import HistoryError
from search.improvement import log_qei, normal_draws
from search.maximise import Candidates, Effort, log_ei_at
from search.multi_step.proposer import MultiStep
from tests.search.gp_world import fitted

SMALL = Effort(restarts=3, candidates=64, steps=30, draws=64)


@pytest.mark.parametrize("seed", range(3))
def test_with_one_evaluation_left_it_is_expected_improvement(seed):
    belief = fitted(seed)
    assert torch.equal(
        Binoculars("best", SMALL).decide(belief, 1, 1, seed, None),
        MultiStep("step", 1, SMALL).decide(belief, 1, 1, seed, None),
    )


@pytest.mark.parametrize("seed", range(3))
def test_with_one_evaluation_left_the_point_maximises_botorchs_expected_improvement(seed):
    belief = fitted(seed)
    peer = ExpectedImprovement(belief.model, belief.best)
    side = torch.linspace(0, 1, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    point = Binoculars("best", SMALL).decide(belief, 1, 1, seed, None)
    with torch.no_grad():
        found, best = float(peer(point)), float(peer(grid[:, None]).max())
    assert found >= best - 1e-6


def test_a_batch_is_worth_more_than_its_starts_and_than_repeats_of_the_best_point():
    belief, normals = fitted(1), normal_draws(256, 5, 9)

    def worth(batch):
        return float(log_qei(*belief.posterior(batch[None]), belief.best, normals).exp())

    batch = best_batch(belief, 5, 0, SMALL)
    assert worth(batch) > worth(best_batch(belief, 5, 0, Effort(3, 64, 0, 64)))
    assert worth(batch) > 1.05 * worth(best_batch(belief, 1, 0, SMALL).repeat(5, 1))


def test_the_evaluated_member_has_the_largest_improvement():
    belief = fitted(2)
    batch = best_batch(belief, 6, 3, SMALL)
    scores = log_ei_at(belief, batch[None])[0]
    chosen = Binoculars("best", SMALL).decide(belief, 6, 2, 3, None)
    assert torch.equal(chosen, batch[scores.argsort(descending=True)[:2]])


def test_sampling_follows_the_improvements():
    belief = fitted(3)
    batch = best_batch(belief, 4, 0, SMALL)
    sampled = Binoculars("sampled", SMALL).decide(belief, 4, 3, 0, None)
    assert all(any(torch.equal(point, member) for member in batch) for point in sampled)
    assert len({tuple(point.tolist()) for point in sampled}) == 3


def test_warped_beliefs_fit_and_stay_positive():
    mixture = Mixture.draw(2, 3, 0)
    points = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(20, dtype=torch.float64)
    values = torch.tensor([mixture(point) for point in points], dtype=torch.float64)
    belief = WarpedBelief(points, values)
    assert torch.allclose(belief.mean(points[None])[0], values, rtol=0.02, atol=0.02 * float(values.max()))
    everywhere = torch.rand(500, 2, dtype=torch.float64)
    assert belief.mean(everywhere[None]).min() >= belief.floor
    assert belief.log_variance(points[None]).max() < belief.log_variance(everywhere[None]).median()


def test_the_closed_form_integral_is_that_of_the_mean():
    mixture = Mixture.draw(2, 3, 1)
    points = torch.quasirandom.SobolEngine(2, scramble=True, seed=1).draw(15, dtype=torch.float64)
    belief = WarpedBelief(points, torch.tensor([mixture(point) for point in points], dtype=torch.float64))
    nodes, weights = np.polynomial.legendre.leggauss(60)
    places, mass = torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
    grid = torch.cartesian_prod(places, places)
    numeric = float((mass[:, None] * mass[None]).flatten() @ belief.mean(grid[None])[0])
    assert belief.integral() == pytest.approx(numeric, rel=1e-8)


def test_known_integrals_of_mixtures_are_right():
    mixture = Mixture.draw(2, 4, 2)
    cube = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(2**14, dtype=torch.float64)
    assert np.mean([mixture(point) for point in cube]) == pytest.approx(mixture.integral, rel=5e-3)


def test_with_one_evaluation_left_quadrature_is_uncertainty_sampling():
    mixture = Mixture.draw(2, 3, 3)
    points = torch.quasirandom.SobolEngine(2, scramble=True, seed=3).draw(8, dtype=torch.float64)
    belief = WarpedBelief(points, torch.tensor([mixture(point) for point in points], dtype=torch.float64))
    assert torch.equal(
        next_point(belief, 1, 0, "log_det", SMALL),
        next_point(belief, 9, 0, "uncertainty", SMALL),
    )
    single = torch.rand(4, 1, 2, dtype=torch.float64)
    assert torch.allclose(belief.log_determinant(single), belief.log_variance(single)[:, 0], atol=1e-3)


def warped(seed, count=8):
    mixture = Mixture.draw(2, 3, seed)
    points = torch.quasirandom.SobolEngine(2, scramble=True, seed=seed).draw(count, dtype=torch.float64)
    return WarpedBelief(points, torch.tensor([mixture(point) for point in points], dtype=torch.float64))


def test_a_plan_for_the_integral_knows_the_variance_that_its_observations_leave():
    root = warped(5).root
    plan, batch = (
        IntegralPlan(root, 0),
        torch.rand(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    )
    covariance = root.with_values(batch, torch.zeros(3, dtype=torch.float64)).posterior(plan.nodes[None])[1][0]
    left = plan.weights @ covariance @ plan.weights
    assert float(left) < 0.9 * float(plan.variance)
    assert float(plan.log_precision(batch[None])[0].neg().exp()) == pytest.approx(float(left), rel=1e-4)
    alone = plan.variance - plan.log_gains(batch[None])[0].exp()
    assert torch.allclose(plan.log_precision(batch[:, None]).neg().exp(), alone, rtol=1e-4)


def test_the_plan_for_the_integral_leaves_it_more_certain_than_the_least_certain_batch():
    belief = warped(6)
    plan, candidates = IntegralPlan(belief.root, 0), Candidates(belief.root, 64, 0).points
    places = plan.spread_out(candidates, 5)
    assert len(set(places.tolist())) == 5
    random = torch.stack([candidates[torch.randperm(64)[:5]] for _ in range(50)])
    ours = plan.log_precision(candidates[places][None])[0]
    assert ours > plan.log_precision(random).max()
    assert ours > plan.log_precision(candidates[spread_out(belief, candidates, 5)][None])[0]


def test_the_integrals_last_point_takes_away_most_of_its_variance():
    belief = warped(7)
    side = torch.linspace(0, 1, 101, dtype=torch.float64)
    gains = IntegralPlan(belief.root, 3).log_gains(torch.cartesian_prod(side, side)[None])
    found = IntegralPlan(belief.root, 3).log_gains(next_point(belief, 1, 3, "integral", SMALL)[None, None])
    assert float(found) >= float(gains.max()) - 1e-6
    assert not torch.equal(next_point(belief, 5, 3, "integral", SMALL), next_point(belief, 5, 3, "log_det", SMALL))


def test_points_of_a_batch_may_coincide():
    same = torch.full((1, 4, 2), 0.3, dtype=torch.float64)
    belief, normals = fitted(4), normal_draws(64, 4, 0)
    assert torch.isfinite(log_qei(*belief.posterior(same), belief.best, normals)).all()
    values = torch.tensor([0.2, 0.9, 0.4], dtype=torch.float64)
    three = WarpedBelief(torch.tensor([[0.1, 0.1], [0.5, 0.6], [0.9, 0.2]], dtype=torch.float64), values)
    assert torch.isfinite(three.log_determinant(same)).all()
    assert torch.isfinite(IntegralPlan(three.root, 0).log_precision(same)).all()


def test_a_spread_batch_beats_random_ones():
    mixture = Mixture.draw(2, 3, 4)
    points = torch.quasirandom.SobolEngine(2, scramble=True, seed=4).draw(8, dtype=torch.float64)
    belief = WarpedBelief(points, torch.tensor([mixture(point) for point in points], dtype=torch.float64))
    candidates = Candidates(belief.root, 64, 0).points
    places = spread_out(belief, candidates, 5)
    assert len(set(places.tolist())) == 5
    random = torch.stack([candidates[torch.randperm(64)[:5]] for _ in range(50)])
    greedy = belief.log_determinant(candidates[places][None])[0]
    assert greedy > belief.log_determinant(random).max()


@pytest.mark.parametrize("method", ["log_det", "integral"])
def test_integrals_approach_the_truth(method):
    mixture = Mixture.draw(1, 3, 5)
    estimates = integrate(mixture, 1, 14, 0, method, SMALL)
    assert len(estimates) == 12
    assert abs(estimates[-1] / mixture.integral - 1) < 0.02
    assert estimates == integrate(mixture, 1, 14, 0, method, SMALL)


def test_quadrature_refuses_what_it_cannot_use():
    with pytest.raises(HistoryError, match="give more"):
        integrate(Mixture.draw(2, 2, 0), 2, 4, 0)
    with pytest.raises(HistoryError, match="not negative"):
        WarpedBelief(torch.rand(3, 1, dtype=torch.float64), torch.tensor([0.2, -0.1, 0.3], dtype=torch.float64))
