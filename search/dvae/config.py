"""Settings of the D-VAE and its training: the one place of each default."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """Frozen, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DvaeConfig(Strict):
    """Sizes and the two constants of the loss (Zhang et al., arXiv 1904.11088, section 4 and its released settings).

    The paper's sizes are hidden 501, latent 56.
    """

    types: int = Field(ge=3, description="vertex types, START and END among them")
    max_vertices: int = Field(ge=2, description="START and END included")
    hidden: int = Field(default=128, ge=1, description="state of a vertex, H")
    latent: int = Field(default=56, ge=1, description="latent vector, L")
    kl_weight: float = Field(default=0.005, ge=0)
    noise: float = Field(default=0.01, ge=0, description="factor on the noise added to the mean")


class DvaeTraining(Strict):
    """Adam with a learning rate that falls as half a cosine to ``last_rate`` of itself."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    last_rate: float = Field(default=0.02, gt=0, le=1)
    clip: float = Field(default=5.0, gt=0, description="largest norm of the gradient of a step")
    seed: int = 0
