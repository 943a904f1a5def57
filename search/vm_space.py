"""The VM as a search space: a graph of blocks, its widths, embeddings, history readers, distillation and training.

The shape of the space is NASRec's (arXiv 2207.07187): choice blocks, their wiring and their widths; a graph is valid by
construction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from models.config import GraphBlock, ReaderConfig, VmConfig
from models.graph_body import BODIES, graph_flops
from models.interactions import FieldLayout
from models.readers import HistoryReader
from models.vm import reader_name
from models.vm_data import VmInputs
from search.errors import SpaceError
from search.graphs import Dag
from search.parameters import Categorical, Float, LogFloat, Parameter, Value
from search.space import Config, SearchSpace

BODY = "body"
UNITS = (16, 32, 64)
SMALLEST, LARGEST = 2, 5
NO_READER = "none"
READER_KINDS = (NO_READER, "mean", "attention", "newest", "mean+attention", "mean+decayed", "mean+attention+newest")


@dataclass(frozen=True)
class FlopsLimit:
    """A space holds no VM above ``most`` FLOPs an example; ``flops`` counts one before any training."""

    # A counter has no representation that another process would give too, and a space's fingerprint is made of them.
    flops: Callable[[VmConfig], float] = field(repr=False)
    most: float


class VmSpace(SearchSpace):
    """Configurations that stand for VMs of one vertical.

    A block's kind and width are one choice (``cross-32``). Each reader of ``base`` may be left out or read its history
    in other ways; nothing else of ``base`` is changed.

    Args:
        base: the hand-set VM; its readers tell which histories there are.
        inputs: what the VM may read.
        limit: on FLOPs; none when absent.

    Raises:
        SpaceError: ``base`` fuses histories beside the graph.
    """

    def __init__(self, base: VmConfig, inputs: VmInputs, limit: FlopsLimit | None = None) -> None:
        if base.fusion != "concat":
            raise SpaceError(
                f"vm.fusion: got {base.fusion}; allowed in a search: concat, since the graph reads histories"
            )
        self.base, self.inputs = base, inputs
        rules = [] if limit is None else [partial(self._too_dear, limit)]
        super().__init__(self._parameters(), rules, cost=self.body_flops)

    def within(self, limit: FlopsLimit) -> VmSpace:
        """The same space without VMs beyond ``limit``."""
        return VmSpace(self.base, self.inputs, limit)

    def _parameters(self) -> list[Parameter]:
        kinds = tuple(f"{kind}-{units}" for kind in BODIES for units in UNITS)
        parameters: list[Parameter] = [
            Dag(BODY, kinds, SMALLEST, LARGEST),
            Categorical("embedding_dim", (4, 8, 16)),
            LogFloat("learning_rate", 5e-4, 1e-2),
            Float("dropout", 0.0, 0.5),
            Float("kd_weight", 0.0, 1.0),
        ]
        if self.base.readers:
            parameters.append(Categorical("reader_dim", (8, 16, 24, 32)))
        return [*parameters, *(Categorical(_reads(reader), READER_KINDS) for reader in self.base.readers)]

    def to_vm(self, config: Config) -> VmConfig:
        """The VM that a configuration stands for."""
        self.validate(config)
        return VmConfig.model_validate(self._vm(config).model_dump())

    def _vm(self, config: Mapping[str, Value]) -> VmConfig:
        """The VM of a configuration that is one, its settings not validated again: that takes most of the time."""
        blocks = []
        for label, inputs in zip(config[BODY]["kinds"], config[BODY]["inputs"], strict=True):
            kind, units = label.rsplit("-", 1)
            blocks.append(GraphBlock(kind=kind, units=int(units), inputs=list(inputs)))
        changes = {
            "architecture": "graph",
            "graph": blocks,
            "embedding_dim": config["embedding_dim"],
            "dropout": config["dropout"],
            "kd_weight": config["kd_weight"],
            "readers": [chosen for reader in self.base.readers if (chosen := _reader(reader, config))],
            "train": self.base.train.model_copy(update={"learning_rate": config["learning_rate"]}),
        }
        return self.base.model_copy(update=changes)

    def _too_dear(self, limit: FlopsLimit, config: Mapping[str, Value]) -> str | None:
        """The rule of a limit."""
        needed = limit.flops(self._vm(config))
        if needed <= limit.most:
            return None
        return f"the VM needs {needed:.0f} FLOPs an example; allowed: at most {limit.most:.0f}"

    def body_flops(self, config: Config) -> float:
        """FLOPs of the graph for one example, before any training; a list of numbers counts as one number."""
        vm = self.to_vm(config)
        specs = self.inputs.specs(vm)
        fields = [spec.name for spec in specs if spec.kind.startswith("categorical")]
        numbers = [(spec.name, 1) for spec in specs if spec.kind.startswith("numeric")]
        with torch.device("meta"):
            widths = [
                (reader_name(r), HistoryReader(r, self.inputs, vm.embedding_dim, _none).width) for r in vm.readers
            ]
        return float(graph_flops(vm.graph, FieldLayout(fields, vm.embedding_dim, numbers, widths)))


def _reads(reader: ReaderConfig) -> str:
    return f"reader {reader_name(reader)}"


def _reader(reader: ReaderConfig, config: Mapping[str, Value]) -> ReaderConfig | None:
    kinds = config[_reads(reader)]
    if kinds == NO_READER:
        return None
    return reader.model_copy(update={"kinds": kinds.split("+"), "dim": config["reader_dim"]})


def _none(rows: Tensor) -> Tensor:
    """Embeds nothing: widths alone are asked for."""
    return rows
