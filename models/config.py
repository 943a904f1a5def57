"""Settings of models and their training. The one place of each default."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from models.own_code import is_own


class Strict(BaseModel):
    """Base of all settings: frozen, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FeatureSpec(Strict):
    """One model input: a column and how it is encoded.

    ``categorical``: int64 id, embedded by a vocabulary fitted on the training window (id 0 of the table: unseen).
    ``numeric``: float, signed log1p then standardised on the training window; null becomes 0 after scaling.
    ``categorical_list`` / ``numeric_list``: variable length lists; ``shares`` names a categorical feature whose
    vocabulary and embedding the list uses (an event list of items shares the item embedding). ``entity``: a categorical
    feature whose ids come and go, such as a user or an item.
    """

    name: str
    kind: Literal["categorical", "numeric", "categorical_list", "numeric_list"]
    shares: str | None = None
    entity: bool = False


OwnClass = Annotated[str, "package.module:Class"]
"""A team's own part (models/own_code.py)."""


def _own_or(*built_in: str) -> AfterValidator:
    def validate(given: str) -> str:
        if given not in built_in and not is_own(given):
            raise ValueError(f"allowed: {', '.join([*built_in, 'a class of your own as package.module:Class'])}")
        return given

    return AfterValidator(validate)


UnseenRate = Annotated[
    float,
    Field(
        ge=0,
        lt=1,
        description="share of entities' ids read as unseen while training, so that new ids are learned",
    ),
]

Units = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
"""Widths of dense layers, in order."""


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


INPUT = "input"
"""Capture of the concatenated fields, before any block."""


class MlpBlock(Strict):
    """Dense layers with ReLU; captures ``NAME.0``, ``NAME.1`` .. are the activations of each layer."""

    kind: Literal["mlp"] = "mlp"
    units: Units
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def layers(self) -> int:
        """Layers that can be captured."""
        return len(self.units)


class CrossBlock(Strict):
    """DCN-V2 cross layers (arXiv 2008.13535, eq. 1); low rank where ``rank`` is given."""

    kind: Literal["cross"] = "cross"
    layers: int = Field(default=2, ge=1)
    rank: int | None = Field(default=None, ge=1)


class DotBlock(Strict):
    """Pairwise dot products of the fields' embeddings (DLRM, arXiv 1906.00091), beside the input."""

    kind: Literal["dot"] = "dot"

    @property
    def layers(self) -> int:
        """Layers that can be captured."""
        return 1


class SelfAttentionBlock(Strict):
    """Multi-head self-attention over the fields' embeddings."""

    kind: Literal["self_attention"] = "self_attention"
    heads: int = Field(default=2, ge=1)
    layers: int = Field(default=1, ge=1)


Block = Annotated[MlpBlock | CrossBlock | DotBlock | SelfAttentionBlock, Field(discriminator="kind")]


BuiltInObjective = Literal["reconstruction", "labels"]
CodecObjective = Annotated[BuiltInObjective | OwnClass, _own_or(*get_args(BuiltInObjective))]


class CodecConfig(Strict):
    """Compression of captured activations to ``dim`` values of ``bits`` bits (LoopFM, arXiv 2605.29280)."""

    dim: int = Field(default=16, ge=2, le=256)
    prefixes: list[int] = Field(default=[4, 8, 16], description="Matryoshka prefixes; the last is dim")
    bits: Literal[4, 8, 32] = Field(default=4, description="of each value")
    objective: CodecObjective = Field(
        default="reconstruction",
        description="what a code must tell: the activations, the labels of all heads, or what your own class says",
    )

    @model_validator(mode="after")
    def _prefixes_fit(self) -> Self:
        if sorted(set(self.prefixes)) != self.prefixes or self.prefixes[-1] != self.dim:
            raise ValueError(f"codec.prefixes: got {self.prefixes}; allowed: rising, the last equal to dim={self.dim}")
        if self.bits == 4 and self.dim % 2:
            raise ValueError(f"codec.dim: got {self.dim}; 4-bit codes need an even number")
        return self

    @property
    def own_parts(self) -> list[OwnClass]:
        """Classes of a team's own."""
        return [self.objective] if is_own(self.objective) else []

    @property
    def code_bytes(self) -> int:
        """Bytes of one packed vector."""
        return self.dim * self.bits // 8


class ExternalFmConfig(Strict):
    """An FM that was trained elsewhere, in place of the project's own (models/external_fm.py)."""

    load: str = Field(description="package.module:function, which takes the checkpoint's path and returns the FM")
    checkpoint: str = Field(description="the FM's file")
    trained_until: str = Field(description="ISO time in UTC of the newest event and label that the FM has seen")

    @property
    def trained_until_ms(self) -> int:
        """Milliseconds since 1970."""
        instant = datetime.fromisoformat(self.trained_until)
        return int(instant.replace(tzinfo=instant.tzinfo or UTC).timestamp() * 1000)

    @model_validator(mode="after")
    def _instant_fits(self) -> Self:
        try:
            _ = self.trained_until_ms
        except ValueError as error:
            raise ValueError(
                f"fm.external.trained_until: got {self.trained_until!r}; allowed: an ISO time such as 2026-01-09T00:00"
            ) from error
        return self


class FutureLabel(Strict):
    """A second loss of the FM: the label rate of the row's key over the time after it, beside the label itself.

    An FM that is read later through histories is asked for what holds later. Needs no label after fm_train_cutoff.
    """

    key: list[str] = Field(default=["item"], min_length=1, description="entities that make the key")
    window_hours: float = Field(default=1.0, gt=0, description="how far ahead: about the age at which tokens are read")
    weight: float = Field(default=0.5, gt=0)


class FmConfig(Strict):
    """The foundation model: embeddings, target attention over event lists, a stack of blocks, one head a vertical.

    ``blocks`` maps a block's name to its settings, in order; any of their layers can be captured by name
    (``mlp.0`` is the first hidden layer of the block named mlp; ``input`` the concatenated fields).
    """

    embedding_dim: int = Field(default=16, ge=1, description="of every categorical feature")
    max_vocabulary: int = Field(default=200_000, ge=1)
    unseen_rate: UnseenRate = 0.0
    attention_heads: int = Field(default=2, ge=1)
    blocks: dict[str, Block] = Field(default={"mlp": MlpBlock(units=[128, 64, 32])}, min_length=1)
    captures: list[str] = Field(default=["mlp.0"], min_length=1, description="layers that the codec compresses")
    codec: CodecConfig = CodecConfig()
    external: ExternalFmConfig | None = Field(
        default=None, description="an FM of your own: layers, captures and vocabulary above are not used then"
    )
    future: FutureLabel | None = Field(default=None, description="also learn the label rate of the time after a row")
    warm_start: bool = Field(default=False, description="start from the newest FM of an earlier window")
    snapshots: int = Field(
        default=1, ge=1, description="FMs of a chain of warm starts whose weights are averaged, this one included"
    )
    train: TrainConfig = TrainConfig()

    @property
    def layers(self) -> list[str]:
        """Names that ``captures`` may hold."""
        return [INPUT, *(f"{name}.{layer}" for name, block in self.blocks.items() for layer in range(block.layers))]

    @model_validator(mode="after")
    def _captures_are_layers(self) -> Self:
        unknown = [name for name in self.captures if name not in self.layers]
        if unknown and self.external is None:
            raise ValueError(f"fm.captures: got {unknown}; allowed: {self.layers}")
        return self

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        for name, block in self.blocks.items():
            if isinstance(block, SelfAttentionBlock) and self.embedding_dim % block.heads:
                raise ValueError(
                    f"fm.blocks.{name}.heads: got {block.heads}; allowed: a divisor of fm.embedding_dim "
                    f"({self.embedding_dim})"
                )
        return self

    @model_validator(mode="after")
    def _snapshots_fit(self) -> Self:
        if self.snapshots > 1 and not self.warm_start:
            raise ValueError(f"fm.snapshots: got {self.snapshots}; allowed without fm.warm_start: 1")
        if self.external is not None and (self.future is not None or self.warm_start):
            raise ValueError("fm.external: an FM of your own is not trained here; leave out future and warm_start")
        return self


class NormBoundary(Strict):
    """LayerNorm and dropout where a history enters the VM, so that no scale of the FM's reaches its layers.

    KGD, arXiv 2608.02738; Foundation-Expert, arXiv 2508.02929.
    """

    kind: Literal["norm"] = "norm"
    dropout: float = Field(default=0.1, ge=0, lt=1)


class AgeDropoutBoundary(Strict):
    """While training, some histories read as empty: the younger a key, the more often, so that it is served without.

    PinFM, arXiv 2507.12704: dropout of the transferred part by age. A key is as old as the oldest token that is read.
    """

    kind: Literal["age_dropout"] = "age_dropout"
    rate: float = Field(default=0.5, gt=0, lt=1, description="of a key of age 0")
    half_life_hours: float = Field(default=24.0, gt=0, description="age at which the rate has halved")


Boundary = Annotated[NormBoundary | AgeDropoutBoundary, Field(discriminator="kind")]


TokenContent = Literal["z", "z_residual", "logit", "residual", "label"]
ALL_CONTENT: list[TokenContent] = ["z", "z_residual", "logit", "residual", "label"]


BuiltInReader = Literal["mean", "newest", "decayed", "attention"]
ReaderKind = Annotated[BuiltInReader | OwnClass, _own_or(*get_args(BuiltInReader))]


class ReaderConfig(Strict):
    """Turns one key's history into vectors.

    tokens ``fm``: z, logit p, residual y-p and z*(y-p) where the label is visible, label, log age; ``raw``: entity ids,
    label, log age; ``control``: the positions of fm tokens with label and log age only.
    """

    key: str = Field(description="a key of dataset.histories.keys")
    with_keys: list[str] = Field(default=[], description="further keys whose tokens are read together with this one's")
    tokens: Literal["fm", "raw", "control"] = "fm"
    content: list[TokenContent] = Field(
        default=ALL_CONTENT, min_length=1, description="what fm tokens tell beside their age"
    )
    kinds: list[ReaderKind] = Field(default=["mean", "attention"], min_length=1)
    half_lives_hours: list[float] = Field(default=[1.0, 6.0, 48.0], description="of decayed sums; learned from here on")
    learn_half_lives: bool = Field(default=True, description="false: half-lives stay as given")
    boundary: Boundary | None = Field(default=None, description="what a read passes before it enters the VM")
    dim: int = Field(default=24, ge=1)
    heads: int = Field(default=2, ge=1)
    length: int | None = Field(default=None, ge=1, description="newest tokens used; all stored ones when absent")

    @property
    def keys(self) -> list[str]:
        """All keys that are read."""
        return [self.key, *self.with_keys]

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        if len(set(self.keys)) < len(self.keys):
            raise ValueError(f"reader.with_keys: got {self.with_keys} beside key {self.key!r}; allowed: each key once")
        if self.with_keys and "newest" in self.kinds:
            raise ValueError(f"reader.kinds: got {self.kinds} over {self.keys}; newest reads one key: leave it out")
        return self


class LossDistillation(Strict):
    """The VM's own logit learns from the FM's chance, beside the label."""

    kind: Literal["loss"] = "loss"


class HeadDistillation(Strict):
    """An auxiliary head on the shared layers learns from the FM's chance, the serving head from labels alone.

    ExFM, arXiv 2502.17494, auxiliary head.
    """

    kind: Literal["head"] = "head"
    alpha: float = Field(default=1.0, gt=0, description="scale of the FM's chance, cut at 1: lifts rare positives")
    beta: float = Field(default=1.0, ge=0, description="scale of the head's gradient into the shared layers")


class AdapterDistillation(Strict):
    """The auxiliary head, and one that learns from a small MLP on the FM's chance, itself trained on fresh labels.

    An answer to a teacher that has grown stale: ExFM, arXiv 2502.17494, student adapter.
    """

    kind: Literal["adapter"] = "adapter"
    alpha: float = Field(default=1.0, gt=0, description="scale of the FM's chance, cut at 1: lifts rare positives")
    beta: float = Field(default=1.0, ge=0, description="scale of both heads' gradient into the shared layers")
    units: int = Field(default=8, ge=1, description="hidden width of the adapter")


class OwnLoss(Strict):
    """What a VM minimises is a class of your own, labels included, at every weight of distillation."""

    kind: Literal["own"] = "own"
    load: Annotated[OwnClass, _own_or()] = Field(description="a subclass of models.distillation.Distiller")


Distillation = Annotated[
    LossDistillation | HeadDistillation | AdapterDistillation | OwnLoss, Field(discriminator="kind")
]


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
    units: Units = [64, 32]
    dropout: float = Field(default=0.0, ge=0, lt=1)
    unseen_rate: UnseenRate = 0.0
    readers: list[ReaderConfig] = Field(default=[], description="of histories; set by the arm")
    counters: bool = Field(default=False, description="read the vertical's counters; set by the arm")
    kd_weight: float = Field(default=0.0, ge=0, description="weight of distillation; set by the arm")
    distillation: Distillation = Field(default=LossDistillation(), description="how the FM's chance teaches")
    fusion: Literal["concat", "additive"] = Field(
        default="concat", description="additive: an empty history leaves the rest of the model as it is"
    )
    within_impression: bool = Field(
        default=False,
        description="every read also as its difference from the mean over the impression: what its candidates' "
        "histories tell of each other, which is known at the request",
    )
    calibrate: bool = Field(
        default=False,
        description="after training, shift the logit so that chances sum to the labels on validation, beyond noise",
    )
    train: TrainConfig = TrainConfig()

    @property
    def own_parts(self) -> list[OwnClass]:
        """Classes of a team's own."""
        kinds = [kind for reader in self.readers for kind in reader.kinds if is_own(kind)]
        return [*kinds, self.distillation.load] if isinstance(self.distillation, OwnLoss) else kinds

    @model_validator(mode="after")
    def _fusion_fits(self) -> Self:
        if self.within_impression and self.fusion == "additive":
            raise ValueError(
                "vm.within_impression: got true; allowed with fusion additive: false, since an example without "
                "histories would read its impression's"
            )
        return self

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
