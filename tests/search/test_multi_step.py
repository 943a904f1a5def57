"""Trees of decisions: equal to EI at depth 1, to BoTorch's posteriors, to brute force in one dimension; warm starts."""

import numpy as np
import pytest
import torch
from botorch.acquisition import ExpectedImprovement, qExpectedImprovement
from botorch.sampling import SobolQMCNormalSampler
from gpytorch.mlls import ExactMarginalLogLikelihood

from benchmarks.nested_quadrature import NestedQuadrature
from search import surrogate
from search.errors import BudgetError, HistoryError
from search.improvement import log_qei, normal_draws
from search.maximise import Effort
from search.multi_step.plan import Plan, Starts, _next_root, make_plan
from search.multi_step.proposer import MultiStep
from search.multi_step.tree import TreeShape, TreeValue, eno, gauss_hermite, k_path, k_step
from search.surrogate import LEAST_LENGTHSCALE, fit, gp_model, log_posterior
from tests.search.gp_world import fitted, line_belief, observations

SMALL = Effort(restarts=3, candidates=64, steps=40, draws=64)


@pytest.mark.parametrize("seed", range(3))
def test_beliefs_are_botorchs_posteriors(seed):
    belief = fitted(seed)
    points = torch.rand(4, 3, 2, dtype=torch.float64)
    mean, covariance = belief.posterior(points)
    with torch.no_grad():
        peer = belief.model.posterior(points)
    assert torch.allclose(mean, peer.mean[..., 0], atol=1e-8)
    assert torch.allclose(covariance, peer.distribution.covariance_matrix, atol=1e-8)
    assert torch.allclose(belief.marginals(points)[1], covariance.diagonal(dim1=-2, dim2=-1), atol=1e-10)
    others = torch.rand(5, 2, dtype=torch.float64)
    joint = belief.posterior(torch.cat([points, others.expand(4, 5, 2)], 1))[1]
    assert torch.allclose(belief.covariance(points, others), joint[:, :3, 3:], atol=1e-10)


def test_the_fits_objective_is_gpytorchs():
    points, values = observations(0, count=9)
    model = gp_model(points, values)
    exact = ExactMarginalLogLikelihood(model.likelihood, model)
    model.train()
    assert log_posterior(model).item() == pytest.approx(exact(model(points), values).item(), abs=1e-6)


def test_a_fit_raises_the_posterior_and_forgets_the_unit():
    points, values = observations(1, count=12)
    belief, other = fit(points, values), fit(points, 1e4 * values - 7e6)
    start = log_posterior(gp_model(points, belief.values))
    assert log_posterior(belief.model.train()) > start + 0.1
    assert torch.allclose(belief.values, other.values, atol=1e-6)
    assert belief.center + belief.scale * belief.best == pytest.approx(float(values.max()))
    flat = fit(points, torch.full((12,), 3.0, dtype=torch.float64))
    assert flat.best == 0


def test_a_model_of_many_dimensions_learns_what_is_additive():
    """A VM's graph, one-hot, has over a hundred: with the prior of a few dimensions nothing would be learned."""
    generator = torch.Generator().manual_seed(0)
    points = (torch.rand(120, 130, generator=generator, dtype=torch.float64) > 0.5).double()
    values = points[:, :20] @ torch.randn(20, generator=generator, dtype=torch.float64)
    belief = fit(points[:80], values[:80])
    mean, variance = belief.marginals(points[80:, None])
    assert torch.corrcoef(torch.stack([mean[:, 0], values[80:]]))[0, 1] > 0.5
    assert (variance < 0.9 * belief.model.covar_module.outputscale).all()


def test_models_need_finite_observations():
    with pytest.raises(HistoryError, match="finite"):
        fit(torch.rand(2, 1, dtype=torch.float64), torch.tensor([1.0, float("nan")], dtype=torch.float64))
    with pytest.raises(HistoryError, match="got 0"):
        fit(torch.zeros(0, 1, dtype=torch.float64), torch.zeros(0, dtype=torch.float64))


@pytest.mark.parametrize("shape", [k_step(1), k_path(1), eno(1)])
def test_a_tree_of_one_step_is_expected_improvement(shape):
    belief = fitted(2)
    points = torch.rand(50, 1, 2, dtype=torch.float64)
    peer = ExpectedImprovement(belief.model, best_f=belief.best)(points)
    assert torch.allclose(TreeValue(belief, shape)(points).exp(), peer, atol=1e-6)


def test_a_batch_leaf_is_monte_carlo_improvement():
    belief, normals = fitted(3), normal_draws(4_096, 3, 0)
    batches = torch.rand(5, 3, 2, dtype=torch.float64)
    peer = qExpectedImprovement(belief.model, belief.best, SobolQMCNormalSampler(torch.Size([4_096]), seed=1))
    ours = log_qei(*belief.posterior(batches), belief.best, normals).exp()
    assert torch.allclose(ours, peer(batches), rtol=0.03, atol=1e-3)
    # A batch without inner stages is that batch.
    alone = TreeValue(belief, TreeShape((), 3), normals)(batches).exp()
    assert torch.allclose(alone, ours)


def tree_by_conditioning(belief, tree, branches):
    """The value of a tree of single points, by a new model for every outcome."""
    value, start = 0.0, 0
    states = [(1.0, belief, belief.best)]
    for stage in range(len(branches) + 1):
        points = tree[start : start + len(states)]
        start += len(states)
        grown = []
        for (weight, state, best), point in zip(states, points, strict=True):
            value += weight * float(ExpectedImprovement(state.model, best_f=best)(point[None]))
            if stage < len(branches):
                mean, variance = state.marginals(point[None, None])
                nodes, masses = np.polynomial.hermite_e.hermegauss(branches[stage])
                for node, mass in zip(nodes, masses / masses.sum(), strict=True):
                    outcome = mean[0, 0] + (variance[0, 0] + state.noise).sqrt() * node
                    after = state.with_values(point[None], outcome[None])
                    grown.append((weight * mass, after, max(best, float(outcome))))
        states = grown
    return value


@pytest.mark.parametrize("branches", [(3,), (3, 2), (1, 1, 1)])
def test_one_factorisation_equals_conditioning_model_after_model(branches):
    belief, shape = fitted(4), TreeShape(branches)
    generator = torch.Generator().manual_seed(0)
    tree = torch.rand(sum(shape.sizes), 2, generator=generator, dtype=torch.float64)
    expected = tree_by_conditioning(belief, tree, branches)
    assert float(TreeValue(belief, shape)(tree[None]).exp()) == pytest.approx(expected, rel=1e-6)


def test_outcomes_are_gauss_hermite_nodes():
    outcomes, weights = gauss_hermite(TreeShape((4, 3)))
    assert outcomes.shape == (12, 2)
    assert float(weights.sum()) == pytest.approx(1)
    for power, moment in ((1, 0.0), (2, 1.0), (4, 3.0)):
        assert float(weights @ outcomes[:, 0] ** power) == pytest.approx(moment, abs=1e-12)
    assert k_path(3).branches == (1, 1)
    assert gauss_hermite(k_path(3))[0].tolist() == [[0.0, 0.0]]
    assert k_step(5).branches == (10, 5, 3, 1)
    assert eno(12) == TreeShape((10,), 11)


@pytest.mark.parametrize("lengthscale", [0.1, 0.2])
def test_two_steps_are_worth_what_brute_force_says(lengthscale):
    belief = line_belief(lengthscale)
    exact = NestedQuadrature(belief, points=201, outcomes=61)
    # The rule of 10 outcomes of the searches is off by some per cent here: the value has a kink at the best so far.
    plan = make_plan(belief, TreeShape((40,)), 0, Effort(restarts=4, steps=150))
    place = int(np.abs(exact.grid - float(plan.first)).argmin())
    assert plan.value == pytest.approx(exact.value(place, 2), rel=0.01)
    assert plan.value >= 0.99 * max(exact.value(place, 2) for place in range(0, 201, 4))


@pytest.mark.slow
def test_three_steps_are_worth_what_brute_force_says():
    belief = line_belief()
    exact = NestedQuadrature(belief, points=61, outcomes=41)
    plan = make_plan(belief, TreeShape((40, 40)), 0, Effort(restarts=3, steps=200))
    place = int(np.abs(exact.grid - float(plan.first)).argmin())
    assert plan.value == pytest.approx(exact.value(place, 3), rel=0.01)


def test_two_steps_of_eno_are_two_steps():
    assert eno(2) == k_step(2)
    assert k_path(2) != k_step(2)


def test_deeper_trees_are_worth_more():
    belief = fitted(5)
    values = [make_plan(belief, k_step(k), 0, SMALL).value for k in (1, 2, 3)]
    assert values == sorted(values)
    assert values[1] > 1.05 * values[0]


def test_maximising_moves_every_node():
    belief = fitted(6)
    plan, start = (make_plan(belief, k_step(2), 0, Effort(2, 64, steps, 64)) for steps in (60, 0))
    assert plan.value > start.value
    moved = (plan.points != start.points).any(-1)
    assert moved.float().mean() > 0.8
    assert plan.points.min() >= 0
    assert plan.points.max() <= 1


@pytest.mark.parametrize("shape", [k_step(3), eno(6), k_path(3)])
def test_a_warm_start_follows_the_branch_that_came_true(shape):
    belief = fitted(7)
    last = make_plan(belief, shape, 0, SMALL)
    branch = len(last.outcomes) - 1
    observed = float(last.outcomes[branch])
    standard = (observed - belief.center) / belief.scale
    after = belief.with_values(last.first[None], torch.tensor([standard], dtype=torch.float64))
    planned = last.stage(1)[branch]
    root = _next_root(after, last, standard)
    assert any(torch.equal(root, point) for point in planned)
    starts = Starts(TreeValue(after, k_step(3)), SMALL, 1)
    tree = starts.trees(root[None], (last, standard))[0]
    assert torch.equal(tree[0], root)
    if shape.stages == 3:
        deeper = last.stage(2).reshape(len(last.outcomes), -1, 2)[branch]
        assert all(any(torch.equal(point, old) for old in deeper) for point in tree[1:11])
    cold = make_plan(after, k_step(3), 1, SMALL)
    assert make_plan(after, k_step(3), 1, SMALL, (last, standard)).value > 0.95 * cold.value


def test_a_warm_start_finds_its_branch_in_the_units_of_the_next_belief():
    belief = fitted(7)
    last = make_plan(belief, k_step(2), 0, Effort(1, 64, 0, 64))
    for branch, outcome in enumerate(last.outcomes.tolist()):
        after = fit(
            torch.cat([belief.points, last.first[None]]),
            torch.cat([belief.center + belief.scale * belief.values, torch.tensor([outcome], dtype=torch.float64)]),
        )
        assert after.scale != belief.scale
        observed = (outcome - after.center) / after.scale
        assert torch.equal(_next_root(after, last, observed), last.stage(1)[branch][0])


def test_a_fit_that_ends_without_a_cholesky_factor_is_made_anew_with_bounded_lengthscales(monkeypatch):
    ended_at, maximise_posterior = [], surrogate.maximise_posterior

    def astray(model, least_lengthscale=None):
        maximise_posterior(model, least_lengthscale)
        if not ended_at:
            model.covar_module.base_kernel.lengthscale = torch.tensor([[1.0, 3e-9]], dtype=torch.float64)
        ended_at.append(least_lengthscale)

    monkeypatch.setattr(surrogate, "maximise_posterior", astray)
    points, values = observations(0, count=80)
    # As on a grid: equal coordinates, whose rounded distances are not 0.
    points[:, 1] = (10 * points[:, 1]).round() / 10
    belief = fit(points, values)
    assert ended_at == [None, LEAST_LENGTHSCALE]
    assert float(belief.model.covar_module.base_kernel.lengthscale.min()) >= LEAST_LENGTHSCALE
    assert torch.isfinite(belief.weights).all()


def test_a_bound_on_lengthscales_holds():
    model = gp_model(*observations(0, count=9))
    surrogate.maximise_posterior(model, 2.0)
    assert float(model.covar_module.base_kernel.lengthscale.min()) >= 2.0 - 1e-9


def test_plans_survive_json():
    plan = make_plan(fitted(8), eno(4), 0, SMALL)
    again = Plan.from_json(plan.to_json())
    assert torch.equal(again.points, plan.points)
    assert torch.equal(again.outcomes, plan.outcomes)
    assert (again.shape, again.value) == (plan.shape, plan.value)
    assert again.stage(1).shape == (10, 3, 2)


def test_the_horizon_is_cut_to_what_is_left():
    belief = fitted(9)
    decider = MultiStep("eno", 12, SMALL)
    decider.decide(belief, 3, 1, 0, None)
    assert decider.last.shape == eno(3)
    last_point = decider.decide(belief, 1, 1, 0, None)
    assert torch.equal(last_point, MultiStep("step", 1, SMALL).decide(belief, 9, 1, 0, None))


def test_a_look_ahead_needs_a_step():
    with pytest.raises(BudgetError, match="at least 1"):
        MultiStep("path", 0)
    with pytest.raises(BudgetError, match="at least 1"):
        k_step(0)
