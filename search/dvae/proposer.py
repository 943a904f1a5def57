"""The D-VAE as a search method: it learns the graphs of a space, then searches among their latent vectors."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from search.dvae.codec import GraphCodec
from search.dvae.config import DvaeConfig, DvaeTraining
from search.dvae.dags import DagBatch
from search.dvae.latent import LatentBo, LatentScale
from search.dvae.model import Dvae
from search.dvae.train import DvaeTrainer
from search.errors import SpaceError
from search.graphs import Dag
from search.proposer import HistoryProposer, check_ask, generator, new_configs
from search.space import Config, SearchSpace, config_key
from search.trial import Trial, done


@dataclass(frozen=True)
class DvaeSettings:
    """Of one search.

    ``first``: random trials before the first model of their results, at most half of a search. ``graphs``: random ones
    that the D-VAE is trained on. ``candidates``: latent vectors decoded for each ``ask``.
    """

    first: int = 20
    graphs: int = 16_000
    hidden: int = 96
    latent: int = 32
    candidates: int = 512
    training: DvaeTraining = field(default_factory=lambda: DvaeTraining(epochs=8, batch_size=64, learning_rate=3e-3))


class DvaeSearch(HistoryProposer):
    """Latent Bayesian optimisation (``LatentBo``) with a D-VAE of the space's own graphs.

    The D-VAE needs no results: it is trained once, on random graphs of the space, before the first proposal that is not
    random. Its weights are part of the state, so that a search that goes on elsewhere proposes the same.

    Args:
        space: with one graph of blocks; its other parameters are searched beside the latent vector.
        seed: of all random choices, the D-VAE's weights among them.
        settings: of the search.

    Raises:
        SpaceError: the space has no graph of blocks, or several.
    """

    def __init__(self, space: SearchSpace, seed: int = 0, settings: DvaeSettings | None = None) -> None:
        super().__init__(space, seed)
        self.settings = settings or DvaeSettings()
        graphs = [parameter for parameter in space.parameters if isinstance(parameter, Dag)]
        if len(graphs) != 1:
            names = [parameter.name for parameter in graphs]
            raise SpaceError(f"dvae searches a space with one graph of blocks; got {names}: use another method here")
        self.codec = GraphCodec(graphs[0])
        self._latent: LatentBo | None = None

    def ask(self, history: Sequence[Trial], budget_left: int, k: int) -> list[Config]:
        """See ``Proposer.ask``."""
        check_ask(self.space, history, budget_left, k)
        first = max(min(self.settings.first, (len(history) + budget_left) // 2), 2)
        if len(done(history)) < first:
            seen = {config_key(trial.config) for trial in history}
            return new_configs(self.space, generator(self.seed, history), k, seen)
        if self._latent is None:
            self._latent = self._searcher(*self._trained())
        return self._latent.ask(history, budget_left, k)

    def state_dict(self) -> dict[str, Any]:
        """The D-VAE, once it is trained."""
        if self._latent is None:
            return {}
        weights, scale = io.BytesIO(), self._latent.scale
        torch.save(self._latent.model.state_dict(), weights)
        return {
            "weights": base64.b64encode(weights.getvalue()).decode(),
            "mean": scale.mean.tolist(),
            "std": scale.std.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``'s answer."""
        self._latent = None
        if state:
            model = Dvae(self._config)
            weights = io.BytesIO(base64.b64decode(state["weights"]))
            model.load_state_dict(torch.load(weights, weights_only=True))
            self._latent = self._searcher(model, LatentScale(torch.tensor(state["mean"]), torch.tensor(state["std"])))

    @property
    def _config(self) -> DvaeConfig:
        sizes = {"types": self.codec.types, "max_vertices": self.codec.max_vertices}
        return DvaeConfig(**sizes, hidden=self.settings.hidden, latent=self.settings.latent)

    def _trained(self) -> tuple[Dvae, LatentScale]:
        training = self.settings.training.model_copy(update={"seed": self.seed})
        graphs = self._graphs()
        model = DvaeTrainer(self._config, training, graphs).fit().eval()
        return model, LatentScale.of(model.means(graphs))

    def _graphs(self) -> DagBatch:
        """Random graphs of the space."""
        rng = np.random.default_rng([self.seed, self.settings.graphs])
        parameter = self.codec.parameter
        drawn = [self.codec.to_dag({parameter.name: parameter.sample(rng)}) for _ in range(self.settings.graphs)]
        return DagBatch.of(drawn, self.codec.max_vertices)

    def _searcher(self, model: Dvae, scale: LatentScale) -> LatentBo:
        return LatentBo(self.space, self.codec, model, scale, self.seed, initial=2, candidates=self.settings.candidates)
