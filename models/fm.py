"""The foundation model: embeddings, target attention over event lists, a stack of blocks, one head a vertical."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import DotTargetAttention, masked_mean
from models.blocks import InteractionStack
from models.config import FeatureSpec, FmConfig
from models.encode import FeatureEncoder
from models.errors import ModelConfigError
from models.unseen import SomeUnseen

AGE_SUFFIX = "_age_hours"

_EMBEDDING_STD = 0.2


class FmInputs(NamedTuple):
    """Encoded rows as tensors: cat int64 [N, C], num [N, D]; per list feature its values and mask [N, length]."""

    cat: Tensor
    num: Tensor
    lists: dict[str, Tensor]
    masks: dict[str, Tensor]


class FmOutput(NamedTuple):
    """logits [N, H] in the order of the heads; captured [N, K], the captured activations side by side; hidden [N, W],
    what the heads read."""

    logits: Tensor
    captured: Tensor
    hidden: Tensor


class FoundationModel(nn.Module):
    """One multi-task FM for the union of all verticals.

    A categorical list that shares the vocabulary of a categorical feature is a list of past events: its fields are the
    target attention of that feature over it, its mean, and mean * feature. Other lists give their mean.

    Args:
        config: sizes, blocks and the layers to capture.
        encoder: the fitted features.
        heads: number H of heads.

    Raises:
        ModelConfigError: ``captures`` names no layer of the blocks.
    """

    def __init__(self, config: FmConfig, encoder: FeatureEncoder, heads: int) -> None:
        super().__init__()
        self.captures = config.captures
        self.features = FieldLayer(config, encoder)
        self.stack = InteractionStack(config.blocks, self.features.width, self.features.fields, config.embedding_dim)
        unknown = [name for name in config.captures if name not in self.stack.capture_widths]
        if unknown:
            raise ModelConfigError(f"fm.captures: got {unknown}; allowed: {list(self.stack.capture_widths)}")
        self.capture_width = sum(self.stack.capture_widths[name] for name in config.captures)
        self.heads = nn.Linear(self.stack.width, heads)

    def forward(self, inputs: FmInputs) -> FmOutput:
        """One pass gives the logits and the captured activations."""
        x, activations = self.stack(*self.features(inputs))
        return FmOutput(self.heads(x), torch.cat([activations[name] for name in self.captures], dim=1), x)


class FieldLayer(nn.Module):
    """Encoded features to (x [N, K], fields [N, F, E]): x holds the flat fields and all numbers."""

    def __init__(self, config: FmConfig, encoder: FeatureEncoder) -> None:
        super().__init__()
        dim = config.embedding_dim
        vocabularies = list(encoder.vocabularies)
        self.embeddings = nn.ModuleList(_embedding(encoder.vocabularies[name].rows, dim) for name in vocabularies)
        self.some_unseen = SomeUnseen(config.unseen_rate, encoder)
        self.places = [vocabularies.index(encoder.vocabulary_name(name)) for name in encoder.categorical]
        specs = encoder.list_features
        self.id_lists = [spec.name for spec in specs if spec.kind == "categorical_list"]
        ages = {f"{name}{AGE_SUFFIX}" for name in self.id_lists}
        self.number_lists = [s.name for s in specs if s.kind == "numeric_list" and s.name not in ages]
        pools = [ListPool(s, encoder, config.attention_heads, dim) for s in specs if s.name in self.id_lists]
        self.pools = nn.ModuleList(pools)
        self.list_places = [vocabularies.index(encoder.vocabulary_name(name)) for name in self.id_lists]
        numbers = len(encoder.numeric) + len(self.id_lists) + len(self.number_lists)
        self.number_field = nn.Linear(numbers, dim) if numbers else None
        self.fields = len(self.places) + sum(pool.fields for pool in pools) + (numbers > 0)
        self.width = self.fields * dim + numbers

    def forward(self, inputs: FmInputs) -> tuple[Tensor, Tensor]:
        """FmInputs -> (x [N, K], fields [N, F, E])."""
        cat = self.some_unseen(inputs.cat)
        fields = [self.embeddings[place](cat[:, column]) for column, place in enumerate(self.places)]
        single = list(fields)
        numbers = [inputs.num]
        for name, place, pool in zip(self.id_lists, self.list_places, self.pools, strict=True):
            mask = inputs.masks[name]
            events = self.embeddings[place](inputs.lists[name])
            fields += pool(single, events, mask, inputs.lists.get(f"{name}{AGE_SUFFIX}"))
            numbers.append(mask.float().mean(dim=1, keepdim=True))
        for name in self.number_lists:
            numbers.append(masked_mean(inputs.lists[name][:, :, None], inputs.masks[name]))
        flat = torch.cat(numbers, dim=1)
        if self.number_field is not None:
            fields.append(self.number_field(flat))
        stacked = torch.stack(fields, dim=1)
        return torch.cat([stacked.flatten(1), flat], dim=1), stacked


class ListPool(nn.Module):
    """Fields of one list of ids: [attention by the shared feature, mean, mean * feature], or the mean alone."""

    def __init__(self, spec: FeatureSpec, encoder: FeatureEncoder, heads: int, dim: int) -> None:
        super().__init__()
        self.target = encoder.categorical.index(spec.shares) if spec.shares else None
        self.attention = DotTargetAttention(dim, heads) if spec.shares else None
        self.fields = 3 if spec.shares else 1

    def forward(self, single: list[Tensor], events: Tensor, mask: Tensor, age: Tensor | None) -> list[Tensor]:
        """single C x [N, E], events [N, L, E], mask [N, L], age [N, L] or None -> fields, each [N, E]."""
        mean = masked_mean(events, mask)
        if self.attention is None or self.target is None:
            return [mean]
        query = single[self.target]
        return [self.attention(query, events, mask, age), mean, mean * query]


def multitask_bce(logits: Tensor, labels: Tensor, known: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted sum of the logistic losses of all known labels, and the sum of their weights.

    logits, labels, known [N, H] (an unknown label counts for nothing), weight [N] (effective) -> two scalars.
    """
    losses = F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
    weights = weight[:, None] * known
    return (losses * weights).sum(), weights.sum()


def _embedding(rows: int, dim: int) -> nn.Embedding:
    """Row 0, of unseen ids, is zero and stays so."""
    embedding = nn.Embedding(rows, dim, padding_idx=0)
    nn.init.normal_(embedding.weight, std=_EMBEDDING_STD)
    with torch.no_grad():
        embedding.weight[0].zero_()
    return embedding
