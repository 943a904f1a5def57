"""FLOPs of a VM, counted while it scores: multiplications and additions of every matrix product it really makes.

Before a training they are known as well: a graph's from its widths, a reader's from the histories that it would read.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models.config import ReaderConfig, VmConfig
from models.errors import ModelConfigError
from models.graph_body import graph_flops
from models.interactions import width
from models.readers import HistoryReader
from models.vm import VerticalModel, field_layout, read_layout
from models.vm_data import VmBatch, VmInputs, history_keys
from models.vm_encoder import VmEncoder


def flops_per_example(model: VerticalModel, batch: VmBatch) -> float:
    """Mean over the examples of ``batch``, whose histories set the readers' share."""
    was_training = model.training
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(batch)
    model.train(was_training)
    return float(counter.get_total_flops()) / len(batch)


class ReaderFlops(NamedTuple):
    """A reader's ``width`` and ``query_width``, and the FLOPs of all examples of a batch."""

    width: int
    query_width: int
    flops: int


class UntrainedFlops:
    """Of VMs of a graph that nobody trained: what ``flops_per_example`` gives of them trained, on the same rows.

    Calls take microseconds, so that a search can ask for every configuration it thinks of: a reader runs once for each
    of its settings, whatever graph is around it.

    Args:
        inputs: what the VMs may read.
        encoder: of a VM of the same features, fitted on the same training window.
        batch: the rows, with the histories of every reader that is asked for.
    """

    def __init__(self, inputs: VmInputs, encoder: VmEncoder, batch: VmBatch) -> None:
        self.inputs, self.batch = inputs, batch
        lists = encoder.features.list_features
        id_lists = [spec for spec in lists if spec.kind == "categorical_list"]
        number_lists = [spec for spec in lists if spec.kind == "numeric_list"]
        self._layout = field_layout(encoder, id_lists, number_lists, dim=0)
        self._readers: dict[tuple[str, int], ReaderFlops] = {}

    def __call__(self, config: VmConfig) -> float:
        """Per example.

        Raises:
            ModelConfigError: the VM is no graph of blocks that reads its histories.
        """
        if config.architecture != "graph" or config.fusion != "concat":
            raise ModelConfigError(
                f"vm: got architecture {config.architecture}, fusion {config.fusion}; counted without a training: "
                "architecture graph, fusion concat"
            )
        layout = self._layout._replace(dim=config.embedding_dim)
        readers = [self._reader(reader, config.embedding_dim) for reader in config.readers]
        queries = 2 * width(layout.flat) * sum(reader.query_width for reader in readers)
        reads = read_layout(config, [reader.width for reader in readers])
        each = queries + graph_flops(config.graph, layout._replace(reads=reads))
        return (len(self.batch) * each + sum(reader.flops for reader in readers)) / len(self.batch)

    def _reader(self, config: ReaderConfig, embedding_dim: int) -> ReaderFlops:
        key = (config.model_dump_json(), embedding_dim)
        if key not in self._readers:
            self._readers[key] = self._run(config, embedding_dim)
        return self._readers[key]

    def _run(self, config: ReaderConfig, embedding_dim: int) -> ReaderFlops:
        def embed(rows: Tensor) -> Tensor:
            return torch.zeros(*rows.shape, embedding_dim)

        # Its first weights are drawn: that must not move the numbers of whoever asked.
        with torch.random.fork_rng(devices=[]):
            reader = HistoryReader(config, self.inputs, embedding_dim, embed).eval()
        histories = [self.batch.histories[key] for key in history_keys(config)]
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            reader(histories, self.batch.event_ts, torch.zeros(len(self.batch), reader.query_width))
        return ReaderFlops(reader.width, reader.query_width, int(counter.get_total_flops()))
