"""Settings of models and their training. The one place of each default."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """Base of all settings: frozen, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FeatureSpec(Strict):
    """One model input: a column and how it is encoded.

    ``categorical``: int64 id, embedded by a vocabulary fitted on the training window (id 0 of the table: unseen).
    ``numeric``: float, signed log1p then standardised on the training window; null becomes 0 after scaling.
    ``categorical_list`` / ``numeric_list``: variable length lists; ``shares`` names a categorical feature whose
    vocabulary and embedding the list uses (an event list of items shares the item embedding).
    """

    name: str
    kind: Literal["categorical", "numeric", "categorical_list", "numeric_list"]
    shares: str | None = None


class TrainConfig(Strict):
    """Settings of a training run."""

    learning_rate: float = Field(default=2e-3, gt=0)
    learning_rate_decay: float = Field(default=0.5, gt=0, le=1, description="factor on the learning rate each epoch")
    embedding_decay: float = Field(
        default=0.0,
        ge=0,
        description="decay of embeddings towards 0, a step's share being this times the learning rate",
    )
    batch_size: int = Field(default=1024, ge=1, description="global batch, over all processes")
    epochs: int = Field(default=4, ge=1)
    patience: int = Field(default=1, ge=0, description="epochs without a better validation NE before stopping")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0


class MlpBlock(Strict):
    """Dense layers with ReLU; captures ``NAME.0``, ``NAME.1`` .. are the activations of each layer."""

    kind: Literal["mlp"] = "mlp"
    units: list[int] = Field(min_length=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class CrossBlock(Strict):
    """DCN-V2 cross layers (arXiv 2008.13535, eq. 1); low rank where ``rank`` is given."""

    kind: Literal["cross"] = "cross"
    layers: int = Field(default=2, ge=1)
    rank: int | None = Field(default=None, ge=1)


class DotBlock(Strict):
    """Pairwise dot products of the fields' embeddings (DLRM, arXiv 1906.00091), beside the input."""

    kind: Literal["dot"] = "dot"


class SelfAttentionBlock(Strict):
    """Multi-head self-attention over the fields' embeddings."""

    kind: Literal["self_attention"] = "self_attention"
    heads: int = Field(default=2, ge=1)
    layers: int = Field(default=1, ge=1)


Block = Annotated[MlpBlock | CrossBlock | DotBlock | SelfAttentionBlock, Field(discriminator="kind")]


class CodecConfig(Strict):
    """Compression of captured activations to ``dim`` values of ``bits`` bits (LoopFM, arXiv 2605.29280)."""

    dim: int = Field(default=16, ge=2, le=256)
    prefixes: list[int] = Field(default=[4, 8, 16], description="Matryoshka prefixes; the last is dim")
    bits: Literal[4, 8, 32] = Field(default=4, description="of each value")

    @model_validator(mode="after")
    def _prefixes_fit(self) -> Self:
        if sorted(set(self.prefixes)) != self.prefixes or self.prefixes[-1] != self.dim:
            raise ValueError(f"codec.prefixes: got {self.prefixes}; allowed: rising, the last equal to dim={self.dim}")
        if self.bits == 4 and self.dim % 2:
            raise ValueError(f"codec.dim: got {self.dim}; 4-bit codes need an even number")
        return self

    @property
    def code_bytes(self) -> int:
        """Bytes of one packed vector."""
        return self.dim * self.bits // 8


class FmConfig(Strict):
    """The foundation model: embeddings, target attention over event lists, a stack of blocks, one head a vertical.

    ``blocks`` maps a block's name to its settings, in order; any of their layers can be captured by name
    (``mlp.0`` is the first hidden layer of the block named mlp; ``input`` the concatenated fields).
    """

    embedding_dim: int = Field(default=16, ge=1, description="of every categorical feature")
    max_vocabulary: int = Field(default=200_000, ge=1)
    attention_heads: int = Field(default=2, ge=1)
    blocks: dict[str, Block] = Field(default={"mlp": MlpBlock(units=[128, 64, 32])}, min_length=1)
    captures: list[str] = Field(default=["mlp.0"], min_length=1, description="layers that the codec compresses")
    codec: CodecConfig = CodecConfig()
    train: TrainConfig = TrainConfig()


class ReaderConfig(Strict):
    """Turns one key's history into vectors.

    tokens ``fm``: z, logit p, residual y-p and z*(y-p) where the label is visible, label, log age; ``raw``: entity ids,
    label, log age; ``control``: the positions of fm tokens with label and log age only.
    """

    key: str = Field(description="a key of dataset.histories.keys")
    tokens: Literal["fm", "raw", "control"] = "fm"
    kinds: list[Literal["mean", "newest", "decayed", "attention"]] = Field(default=["mean", "attention"], min_length=1)
    half_lives_hours: list[float] = Field(default=[1.0, 6.0, 48.0], description="of decayed sums; learned from here on")
    dim: int = Field(default=24, ge=1)
    heads: int = Field(default=2, ge=1)
    length: int | None = Field(default=None, ge=1, description="newest tokens used; all stored ones when absent")


class GraphBlock(Strict):
    """One block of a VM of the architecture ``graph``; see models/graph_body.py for what each kind computes."""

    kind: Literal["mlp", "cross", "dot", "gating", "sum", "self_attention"]
    units: int = Field(ge=1, description="width of the block's output")
    inputs: list[int] = Field(
        min_length=1, description="rising; 0: the model's input, j: the j-th block, an earlier one"
    )


class VmConfig(Strict):
    """A vertical model."""

    architecture: Literal["mlp", "deepfm", "dcn", "dlrm", "graph"] = "mlp"
    graph: list[GraphBlock] = Field(
        default=[], description="blocks of the architecture graph, which needs at least one"
    )
    embedding_dim: int = Field(default=8, ge=1)
    max_vocabulary: int = Field(default=200_000, ge=1)
    units: list[int] = Field(default=[64, 32], min_length=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    unseen_rate: float = Field(
        default=0.0, ge=0, lt=1, description="share of ids read as unseen while training, so that new ids are learned"
    )
    readers: list[ReaderConfig] = Field(default=[], description="of histories; set by the arm")
    counters: bool = Field(default=False, description="read the vertical's counters; set by the arm")
    kd_weight: float = Field(default=0.0, ge=0, description="weight of distillation; set by the arm")
    fusion: Literal["concat", "additive"] = Field(
        default="concat", description="additive: an empty history leaves the rest of the model as it is"
    )
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _graph_fits(self) -> Self:
        if (self.architecture == "graph") != bool(self.graph):
            raise ValueError(
                f"vm.graph: got {len(self.graph)} blocks; allowed with architecture {self.architecture}: "
                f"{'at least one' if self.architecture == 'graph' else 'none'}"
            )
        for place, block in enumerate(self.graph, start=1):
            inputs = block.inputs
            if inputs != sorted(set(inputs)) or not 0 <= inputs[0] <= inputs[-1] < place:
                raise ValueError(f"vm.graph: block {place} reads {inputs}; allowed: some of 0 .. {place - 1}, rising")
        return self
