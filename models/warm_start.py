"""Weights of an earlier VM into a new one: what both have is kept, what is new stays as initialised."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.embedding import EmbeddingTable
from models.errors import FeatureMismatchError
from models.interactions import InputLinear, Layout
from models.vm import VerticalModel


def copy_weights(old: VerticalModel, new: VerticalModel) -> None:
    """Copy every weight whose meaning both models share: embeddings by id, input columns by the name of their stretch.

    The new model's encoder must extend the old one's (``FeatureEncoder.extend``), so that known ids keep their rows.

    Raises:
        FeatureMismatchError: the old model has a reader that the new one lacks, or another architecture.
    """
    removed = sorted(set(old.readers) - set(new.readers))
    if removed:
        raise FeatureMismatchError(
            f"readers {removed}: the model to start from has them, the new settings do not; keep them or train fresh"
        )
    if type(old.network) is not type(new.network) or old.config.fusion != new.config.fusion:
        raise FeatureMismatchError(
            f"architecture {old.config.architecture}, fusion {old.config.fusion} of the model to start from: the new "
            f"settings say {new.config.architecture}, {new.config.fusion}; keep them or train fresh"
        )
    if old.config.graph != new.config.graph:
        raise FeatureMismatchError("graph: the model to start from has other blocks; keep them or train fresh")
    modules = dict(new.named_modules())
    with torch.no_grad():
        new.bias.copy_(old.bias)
        for name, module in old.named_modules():
            if name in modules:
                _copy_module(module, modules[name], name)


def _copy_module(old: nn.Module, new: nn.Module, name: str) -> None:
    if isinstance(old, EmbeddingTable) and isinstance(new, EmbeddingTable):
        _copy_table(old, new)
    elif isinstance(old, InputLinear) and isinstance(new, InputLinear):
        _copy_input(old, new)
    else:
        for parameter, value in new.named_parameters(recurse=False):
            source = old.get_parameter(parameter)
            if source.shape != value.shape:
                raise FeatureMismatchError(
                    f"{name}.{parameter}: shape {tuple(source.shape)} in the model to start from, {tuple(value.shape)} "
                    "by the new settings; keep its sizes or train fresh"
                )
            value.copy_(source)


def _copy_table(old: EmbeddingTable, new: EmbeddingTable) -> None:
    for table, rows in old.tables.items():
        if table in new.starts:
            source = old.weight[old.starts[table] : old.starts[table] + rows]
            new.weight[new.starts[table] : new.starts[table] + rows] = source


def _copy_input(old: InputLinear, new: InputLinear) -> None:
    columns_old, columns_new = _shared(old.layout, new.layout)
    if old.out_layout is None or new.out_layout is None:
        rows_old = rows_new = torch.arange(len(old.weight))
    else:
        rows_old, rows_new = _shared(old.out_layout, new.out_layout)
    new.weight[rows_new[:, None], columns_new] = old.weight[rows_old[:, None], columns_old]
    if new.bias is not None:
        new.bias[rows_new] = old.bias[rows_old]


def _shared(old: Layout, new: Layout) -> tuple[Tensor, Tensor]:
    """Places of the stretches that both layouts hold, in the old and in the new vector."""
    starts_old, starts_new = _starts(old), _starts(new)
    names = [name for name in starts_old if name in starts_new]
    spans_old = [torch.arange(*starts_old[name]) for name in names]
    spans_new = [torch.arange(*starts_new[name]) for name in names]
    empty = [torch.zeros(0, dtype=torch.int64)]
    return torch.cat(empty + spans_old), torch.cat(empty + spans_new)


def _starts(layout: Layout) -> dict[str, tuple[int, int]]:
    starts, at = {}, 0
    for name, size in layout:
        starts[name] = (at, at + size)
        at += size
    return starts
