"""Bayesian optimisation in a D-VAE's latent space (arXiv 1904.11088, section 5.3), on the contract of proposers.

Shape legend: M candidates, D inputs of the Gaussian process: the L latent dimensions, then the encodings of all
parameters that are no part of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from botorch.acquisition.logei import qLogExpectedImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.generation.gen import gen_candidates_scipy
from botorch.models import SingleTaskGP
from botorch.sampling import SobolQMCNormalSampler
from gpytorch.mlls import ExactMarginalLogLikelihood
from torch import Tensor

from search.dvae.codec import DagCodec, most_frequent
from search.dvae.dags import DagBatch
from search.dvae.model import Dvae
from search.errors import SpaceError
from search.proposer import HistoryProposer, check_ask, generator, new_configs
from search.space import Config, SearchSpace, config_key
from search.trial import Trial, done, value

WIDTH = 6.0
"""Standard deviations of the training latents that the unit interval spans."""
PARENTS = 10
"""Best trials whose neighbourhoods give candidates."""
STEPS = (0.1, 0.3, 1.0)
"""Standard deviations of a step from a parent, in those of the training latents."""
CLIMBED = 4
"""Candidates from which the acquisition function is climbed by its gradient."""
DECODINGS = 5
"""Draws of the decoder for one latent vector, of which the most frequent graph counts."""
MC_SAMPLES = 128


@dataclass(frozen=True)
class LatentScale:
    """Mean and standard deviation of the latents of the graphs that the D-VAE was trained on, [L] each."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, latents: Tensor) -> LatentScale:
        """From training latents [G, L]."""
        return cls(latents.mean(dim=0), latents.std(dim=0).clamp_min(1e-6))

    def to_unit(self, z: Tensor) -> Tensor:
        """[.., L] -> mostly within [0, 1]."""
        return (z - self.mean) / (WIDTH * self.std) + 0.5

    def from_unit(self, unit: Tensor) -> Tensor:
        """The inverse of ``to_unit``."""
        return (unit - 0.5) * (WIDTH * self.std) + self.mean


class LatentBo(HistoryProposer):
    """Batch expected improvement over latent vectors, decoded without a mask and kept where valid and new.

    A decoded graph is encoded again, and the Gaussian process sees the latents of real graphs only: a latent vector is
    judged by what it decodes to. Candidates come from the training latents' distribution, from the neighbourhoods of
    the best trials, and from climbing the acquisition function by its gradient.

    Args:
        space: to search.
        codec: which of its parameters are the graph.
        model: a trained D-VAE of such graphs.
        scale: of its training latents.
        seed: of all random choices.
        initial: trials with a result before the first model; random until then.
        candidates: latent vectors decoded for each ``ask``.

    Raises:
        SpaceError: the model was trained on other types or fewer vertices, or the space lacks the codec's parameters.
    """

    def __init__(
        self,
        space: SearchSpace,
        codec: DagCodec,
        model: Dvae,
        scale: LatentScale,
        seed: int = 0,
        initial: int = 20,
        candidates: int = 512,
    ) -> None:
        super().__init__(space, seed)
        config = model.config
        if (config.types, config.max_vertices) != (codec.types, codec.max_vertices):
            raise SpaceError(
                f"the D-VAE knows {config.types} types and {config.max_vertices} vertices, the space's graphs have "
                f"{codec.types} and {codec.max_vertices}: train one on graphs of this space"
            )
        names = {parameter.name for parameter in space.parameters}
        if missing := set(codec.names) - names:
            raise SpaceError(f"the space has no parameters {sorted(missing)}, which the graph holds; it has {names}")
        self.codec, self.model, self.scale = codec, model.eval(), scale
        self.initial, self.candidates = initial, candidates
        self._others = [parameter for parameter in space.parameters if parameter.name not in codec.names]

    def ask(self, history: Sequence[Trial], budget_left: int, k: int) -> list[Config]:
        """See ``Proposer.ask``."""
        check_ask(self.space, history, budget_left, k)
        rng, seen = generator(self.seed, history), {config_key(trial.config) for trial in history}
        trials = done(history)
        if len(trials) < self.initial:
            return new_configs(self.space, rng, k, seen)
        acquisition = self._acquisition(trials, [trial for trial in history if trial.state == "running"], rng)
        parents = [trial.config for trial in sorted(trials, key=value)[:PARENTS]]
        found = self._new(self._proposals(parents, rng), seen, rng)
        found |= self._new(self._climbed(acquisition, list(found.values())), seen | set(found), rng)
        chosen = self._choose(acquisition, list(found.values()), k)
        seen |= {config_key(config) for config in chosen}
        return chosen + new_configs(self.space, rng, k - len(chosen), seen)

    def inputs(self, configs: Sequence[Config]) -> Tensor:
        """Configurations -> double [M, D]."""
        batch = DagBatch.of([self.codec.to_dag(config) for config in configs], self.codec.max_vertices)
        latents = self.scale.to_unit(self.model.means(batch)).double()
        others = [[*self._encode_others(config)] for config in configs]
        return torch.cat([latents, torch.tensor(others, dtype=torch.double).reshape(len(configs), -1)], dim=1)

    def _encode_others(self, config: Config) -> np.ndarray:
        parts = [parameter.encode(config[parameter.name]) for parameter in self._others]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _acquisition(
        self, trials: list[Trial], running: list[Trial], rng: np.random.Generator
    ) -> qLogExpectedImprovement:
        """Batch log EI on -NE standardised, with the trials that are running as pending points."""
        X = self.inputs([trial.config for trial in trials])
        y = -torch.tensor([[value(trial)] for trial in trials], dtype=torch.double)
        y = (y - y.mean()) / y.std().clamp_min(1e-12)
        # BoTorch's own prior grows lengthscales with the dimension: those made for a few dimensions see no two of
        # these points as neighbours.
        gp = SingleTaskGP(X, y)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(gp.likelihood, gp))
        sampler = SobolQMCNormalSampler(torch.Size([MC_SAMPLES]), seed=int(rng.integers(2**31)))
        pending = self.inputs([trial.config for trial in running]) if running else None
        return qLogExpectedImprovement(gp, best_f=y.max(), sampler=sampler, X_pending=pending)

    def _proposals(self, parents: list[Config], rng: np.random.Generator) -> list[tuple[Tensor, Config]]:
        """Latent vectors, and a configuration that gives what the graph does not: half anew, half near parents."""
        noise = torch.from_numpy(rng.standard_normal((self.candidates, len(self.scale.mean)))).float()
        starts = self.scale.from_unit(self.inputs(parents)[:, : noise.shape[1]].float())
        found = []
        for row, step in enumerate(noise * self.scale.std):
            if row % 2:
                found.append((self.scale.mean + step, self.space.sample(rng)))
                continue
            place = int(rng.integers(len(parents)))
            length = STEPS[int(rng.integers(len(STEPS)))]
            found.append((starts[place] + length * step, self._near(parents[place], rng)))
        return found

    def _near(self, parent: Config, rng: np.random.Generator) -> Config:
        """The parent with at most one parameter outside the graph changed."""
        place = int(rng.integers(len(self._others) + 1))
        if place == len(self._others):
            return parent
        parameter = self._others[place]
        return {**parent, parameter.name: parameter.mutate(parent[parameter.name], rng)}

    def _new(
        self, proposals: list[tuple[Tensor, Config]], seen: set[str], rng: np.random.Generator
    ) -> dict[str, Config]:
        """Decoded configurations by key: valid ones that are not in ``seen``."""
        if not proposals:
            return {}
        source = torch.Generator().manual_seed(int(rng.integers(2**31)))
        z = torch.stack([z for z, _ in proposals]).repeat_interleave(DECODINGS, dim=0)
        dags = most_frequent(self.model.decoder.sample(z, source), DECODINGS)
        found: dict[str, Config] = {}
        for dag, (_, base) in zip(dags, proposals, strict=True):
            if (values := self.codec.to_values(dag)) is None:
                continue
            config = {**base, **values}
            if (key := config_key(config)) not in seen and self.space.allows(config):
                found[key] = config
        return found

    def _climbed(self, acquisition: qLogExpectedImprovement, configs: list[Config]) -> list[tuple[Tensor, Config]]:
        """Latent vectors and settings after gradient ascent from the ``CLIMBED`` best candidates."""
        starts = self._choose(acquisition, configs, CLIMBED)
        if not starts:
            return []
        X, _ = gen_candidates_scipy(
            self.inputs(starts).clamp(0.0, 1.0).unsqueeze(1),
            acquisition,
            lower_bounds=0.0,
            upper_bounds=1.0,
            options={"maxiter": 50},
        )
        latent = len(self.scale.mean)
        tops = self.scale.from_unit(X[:, 0, :latent].float())
        return [
            (z, {**start, **self._decode_others(x[0, latent:])}) for z, start, x in zip(tops, starts, X, strict=True)
        ]

    def _decode_others(self, numbers: Tensor) -> Config:
        values, start = {}, 0
        for parameter in self._others:
            values[parameter.name] = parameter.decode(numbers[start : start + parameter.width].numpy())
            start += parameter.width
        return values

    def _choose(self, acquisition: qLogExpectedImprovement, configs: list[Config], k: int) -> list[Config]:
        """``k`` configurations, greedily: each the best given those chosen before it."""
        if not configs:
            return []
        X, before = self.inputs(configs), acquisition.X_pending
        chosen: list[int] = []
        for _ in range(min(k, len(configs))):
            with torch.no_grad():
                scores = acquisition(X.unsqueeze(1))
            scores[chosen] = -torch.inf
            chosen.append(int(scores.argmax()))
            pending = X[chosen] if before is None else torch.cat([before, X[chosen]])
            acquisition.set_X_pending(pending)
        acquisition.set_X_pending(before)
        return [configs[place] for place in chosen]
