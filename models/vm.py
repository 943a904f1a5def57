"""A vertical model: embedded features and numbers, history readers, interaction layers.

Shape legend: B examples, C categorical features, E embedding dim, F fields, D numbers, R width of all reads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.config import FeatureSpec, ReaderConfig, VmConfig
from models.embedding import EmbeddingTable
from models.errors import ModelConfigError
from models.graph_body import GraphNetwork
from models.interactions import NETWORKS, DenseTower, FieldLayout, InputLinear, Layout, VmFields
from models.readers import HistoryReader
from models.slates import less_slate_mean
from models.unseen import SomeUnseen
from models.vm_data import VmBatch, VmInputs, history_keys
from models.vm_encoder import VmEncoder

ARCHITECTURES = {**NETWORKS, "graph": GraphNetwork}


def reader_name(reader: ReaderConfig) -> str:
    """Name of a reader within its model."""
    return f"{reader.tokens}_{'+'.join(reader.keys)}"


class VmOutput(NamedTuple):
    """Logit [B], and what its heads read: ``hidden`` [B, hidden_width]."""

    logit: Tensor
    hidden: Tensor


class VerticalModel(nn.Module):
    """Features and histories of an example to its logit.

    Fusion ``concat`` gives the reads to the interaction layers; ``additive`` adds a tower over the reads to the logit,
    which is exactly 0 where every history is empty (KEEP, arXiv 2208.10174).

    Args:
        config: architecture and readers.
        inputs: features and the space of FM tokens.
        encoder: fitted vocabularies.

    Raises:
        ModelConfigError: two readers of one key take the same kind of tokens.
    """

    cat_starts: Tensor
    entity_starts: Tensor

    def __init__(self, config: VmConfig, inputs: VmInputs, encoder: VmEncoder) -> None:
        super().__init__()
        names = [reader_name(reader) for reader in config.readers]
        if len(set(names)) < len(names):
            raise ModelConfigError(f"vm.readers: got {names}; allowed: each key and kind of tokens once")
        self.config, dim = config, config.embedding_dim
        self.dim = dim
        self.first_order = config.architecture == "deepfm"
        self.table = EmbeddingTable(encoder.tables, dim + self.first_order, self.first_order)
        features = encoder.features
        starts = [self.table.starts[features.vocabulary_name(name)] for name in features.categorical]
        self.register_buffer("cat_starts", torch.tensor(starts, dtype=torch.int64), persistent=False)
        self.some_unseen = SomeUnseen(config.unseen_rate, features)
        self.id_lists = [s for s in features.list_features if s.kind == "categorical_list"]
        self.number_lists = [s for s in features.list_features if s.kind == "numeric_list"]
        self.list_starts = [self.table.starts[features.vocabulary_name(s.name)] for s in self.id_lists]
        entity_starts = [self.table.starts.get(encoder.table(name), 0) for name in inputs.entities]
        self.register_buffer("entity_starts", torch.tensor(entity_starts, dtype=torch.int64), persistent=False)
        self._build_layers(config, inputs, encoder)

    def _build_layers(self, config: VmConfig, inputs: VmInputs, encoder: VmEncoder) -> None:
        layout = field_layout(encoder, self.id_lists, self.number_lists, self.dim)
        readers = {reader_name(r): HistoryReader(r, inputs, self.dim, self.embed_entities) for r in config.readers}
        queries = {name: InputLinear(layout.flat, r.query_width) for name, r in readers.items() if r.query_width}
        self.readers, self.queries = nn.ModuleDict(readers), nn.ModuleDict(queries)
        self.keys = {reader_name(reader): history_keys(reader) for reader in config.readers}
        reads = read_layout(config, [reader.width for reader in readers.values()])
        additive = config.fusion == "additive" and reads
        self.network = ARCHITECTURES[config.architecture](config, layout._replace(reads=[] if additive else reads))
        self.addition = None
        if additive:
            tower = DenseTower(reads, config.units, config.dropout, bias=False)
            self.addition = nn.Sequential(tower, nn.Linear(config.units[-1], 1, bias=False))
        self.bias = nn.Parameter(torch.zeros(()))

    def start_at(self, base_rate: float) -> None:
        """Set the bias to the logit of the training window's base rate."""
        rate = min(max(base_rate, 1e-6), 1 - 1e-6)
        with torch.no_grad():
            self.bias.fill_(math.log(rate / (1 - rate)))

    def embed_entities(self, rows: Tensor) -> Tensor:
        """Token entities [.., entities] -> [.., entities, E]."""
        return self.table(rows + self.entity_starts)[..., : self.dim]

    def fields(self, batch: VmBatch) -> VmFields:
        """Embedded features and numbers of a batch, without reads."""
        embedded = self.table(self.some_unseen(batch.cat) + self.cat_starts)
        if self.id_lists:
            means = [self._list_mean(batch, spec, at) for spec, at in zip(self.id_lists, self.list_starts, strict=True)]
            embedded = torch.cat([embedded, torch.stack(means, dim=1)], dim=1)
        numbers = [batch.num, *(batch.lists[spec.name] for spec in self.number_lists)]
        number = torch.cat(numbers, dim=1) if self.number_lists else batch.num
        first_order = embedded[..., self.dim] if self.first_order else None
        return VmFields(embedded[..., : self.dim], first_order, number, batch.num.new_zeros(len(batch), 0))

    def _list_mean(self, batch: VmBatch, spec: FeatureSpec, start: int) -> Tensor:
        mask = batch.masks[spec.name].to(batch.num.dtype)[..., None]
        return (self.table(batch.lists[spec.name] + start) * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)

    @property
    def hidden_width(self) -> int:
        """Width of ``VmOutput.hidden``."""
        return self.network.hidden_width + (0 if self.addition is None else self.config.units[-1])

    def forward(self, batch: VmBatch) -> Tensor:
        """Logit [B]."""
        return self.output(batch).logit

    def output(self, batch: VmBatch) -> VmOutput:
        """Logit and hidden vector; the additive tower's last layer belongs to the latter."""
        fields = self.fields(batch)
        return self.output_of(fields, self.read(batch, fields) if self.readers else None)

    def output_of(self, fields: VmFields, reads: Tensor | None) -> VmOutput:
        """Like ``output``, of fields and reads [B, R] (None without readers) in hand."""
        if reads is not None and self.addition is None:
            fields = fields._replace(reads=reads)
        hidden = self.network.hidden(fields)
        logit = self.network.head(hidden, fields)
        if reads is not None and self.addition is not None:
            tower, out = self.addition
            added = tower(reads)
            return VmOutput(logit + out(added).squeeze(1) + self.bias, torch.cat([hidden, added], dim=1))
        return VmOutput(logit + self.bias, hidden)

    def read(self, batch: VmBatch, fields: VmFields) -> Tensor:
        """What all readers give, side by side: [B, R]."""
        flat, none = fields.flat(), batch.num.new_zeros(len(batch), 0)
        reads = []
        for name, reader in self.readers.items():
            query = self.queries[name](flat) if name in self.queries else none
            reads.append(reader([batch.histories[key] for key in self.keys[name]], batch.event_ts, query))
        return self.compared(torch.cat(reads, dim=1), batch.slate)

    def compared(self, reads: Tensor, slate: Tensor) -> Tensor:
        """Reads [B, R] of slates [B], with their differences beside them where the settings ask for it: [B, 2 R]."""
        return torch.cat([reads, less_slate_mean(reads, slate)], dim=1) if self.config.within_impression else reads


def read_layout(config: VmConfig, widths: list[int]) -> Layout:
    """Names of the stretches that a VM's readers give, of ``widths`` in the order of its settings."""
    names = [f"reader {reader_name(reader)}" for reader in config.readers]
    reads = list(zip(names, widths, strict=True))
    within = [(f"{name} within the impression", size) for name, size in reads] if config.within_impression else []
    return [*reads, *within]


def field_layout(
    encoder: VmEncoder, id_lists: list[FeatureSpec], number_lists: list[FeatureSpec], dim: int
) -> FieldLayout:
    """Names of the stretches of a VM's input, reads apart."""
    features = encoder.features
    numbers = [*((name, 1) for name in features.numeric), *((s.name, features.lengths[s.name]) for s in number_lists)]
    return FieldLayout([*features.categorical, *(s.name for s in id_lists)], dim, numbers, [])
