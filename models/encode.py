"""Columns to model inputs: vocabularies and normalisers fitted on a training window, applied to Arrow data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from models.config import FeatureSpec
from models.errors import FeatureMismatchError, ModelConfigError
from models.vocabulary import Ids, Vocabulary

Floats = npt.NDArray[np.float32]
Rows: TypeAlias = "pa.Table | pa.RecordBatch"

MAX_LIST_LENGTH = 256


@dataclass(frozen=True)
class Encoded:
    """Model inputs of N rows, columns in the order of the specs.

    ``cat`` int64 [N, C] and ``num`` float32 [N, D]; ``lists`` maps a list feature to [N, length] (int64 rows of a
    vocabulary or float32), ``masks`` to bool [N, length], true where the row has an element.
    """

    cat: Ids
    num: Floats
    lists: dict[str, npt.NDArray[Any]]
    masks: dict[str, npt.NDArray[np.bool_]]

    def __len__(self) -> int:
        return len(self.cat)


@dataclass(frozen=True)
class Normaliser:
    """Signed log1p, then mean 0 and deviation 1 over the training window; not a number becomes 0."""

    mean: float
    std: float

    @classmethod
    def fit(cls, values: Floats) -> Normaliser:
        """Statistics of the finite values; (0, 1) where there are none."""
        logs = _signed_log(values[np.isfinite(values)]).astype(np.float64)
        std = float(logs.std()) if len(logs) else 0.0
        return cls(float(logs.mean()) if len(logs) else 0.0, std if std > 1e-6 else 1.0)

    def __call__(self, values: Floats) -> Floats:
        """Scale ``values`` of any shape."""
        scaled = (_signed_log(values) - np.float32(self.mean)) / np.float32(self.std)
        return np.where(np.isfinite(scaled), scaled, np.float32(0.0))


class FeatureEncoder:
    """Encodes Arrow rows as the training window taught it; build it with ``fit``, ``extend`` or ``from_state``.

    Args:
        specs: the features, in order.
        vocabularies: one for each categorical feature, and each categorical list that shares none.
        normalisers: one for each numeric feature and numeric list.
        lengths: padded length of each list feature.
    """

    def __init__(
        self,
        specs: list[FeatureSpec],
        vocabularies: dict[str, Vocabulary],
        normalisers: dict[str, Normaliser],
        lengths: dict[str, int],
    ) -> None:
        self.specs = specs
        self.vocabularies = vocabularies
        self.normalisers = normalisers
        self.lengths = lengths

    @classmethod
    def fit(cls, table: Rows, specs: list[FeatureSpec], max_vocabulary: int) -> FeatureEncoder:
        """Fit vocabularies, normalisers and list lengths on a training window.

        A vocabulary holds the ``max_vocabulary`` most frequent ids of its feature and of the lists that share it.

        Raises:
            FeatureMismatchError: a feature is absent or of another type.
            ModelConfigError: a list shares the vocabulary of no categorical feature.
        """
        return cls([], {}, {}, {}).extend(table, specs, max_vocabulary)

    def extend(self, table: Rows, specs: list[FeatureSpec], max_vocabulary: int) -> FeatureEncoder:
        """A warm start: every known row, normaliser and length stays; new ids and new features are fitted and added.

        Raises:
            FeatureMismatchError: a feature of this encoder is not in ``specs``, or not in the table.
            ModelConfigError: a list shares the vocabulary of no categorical feature.
        """
        _check_shares(specs)
        # Not by ``entity``: it changes training alone, and models saved before it was said lack it.
        kept = {(spec.name, spec.kind, spec.shares) for spec in specs}
        removed = [spec.name for spec in self.specs if (spec.name, spec.kind, spec.shares) not in kept]
        if removed:
            raise FeatureMismatchError(
                f"features {removed}: the model to start from reads them, the new settings do not (or as another kind);"
                " keep them or train fresh"
            )
        vocabularies, normalisers, lengths = dict(self.vocabularies), dict(self.normalisers), dict(self.lengths)
        for name, ids in _ids_by_vocabulary(table, specs).items():
            known = vocabularies.get(name)
            vocabularies[name] = known.extend(ids, max_vocabulary) if known else Vocabulary.fit(ids, max_vocabulary)
        for spec in specs:
            if spec.kind.startswith("numeric") and spec.name not in normalisers:
                normalisers[spec.name] = Normaliser.fit(_numbers(_flat(table, spec)))
            if spec.kind.endswith("list") and spec.name not in lengths:
                lengths[spec.name] = _fitted_length(table, spec)
        return FeatureEncoder(specs, vocabularies, normalisers, lengths)

    @property
    def categorical(self) -> list[str]:
        """Features of the columns of ``Encoded.cat``."""
        return [spec.name for spec in self.specs if spec.kind == "categorical"]

    @property
    def numeric(self) -> list[str]:
        """Features of the columns of ``Encoded.num``."""
        return [spec.name for spec in self.specs if spec.kind == "numeric"]

    @property
    def list_features(self) -> list[FeatureSpec]:
        """Features of ``Encoded.lists``."""
        return [spec for spec in self.specs if spec.kind.endswith("list")]

    def vocabulary_name(self, feature: str) -> str:
        """Name of the vocabulary, and so of the embedding, that a categorical feature or list uses."""
        return next(_vocabulary(spec) for spec in self.specs if spec.name == feature)

    def encode(self, rows: Rows) -> Encoded:
        """Encode N rows; see ``Encoded``.

        Raises:
            FeatureMismatchError: a feature is absent or of another type.
        """
        cat = np.empty((rows.num_rows, len(self.categorical)), np.int64)
        num = np.empty((rows.num_rows, len(self.numeric)), np.float32)
        for place, name in enumerate(self.categorical):
            cat[:, place] = self._rows_of(name, _column(rows, name, "categorical"))
        for place, name in enumerate(self.numeric):
            num[:, place] = self.normalisers[name](_numbers(_column(rows, name, "numeric")))
        lists: dict[str, npt.NDArray[Any]] = {}
        masks: dict[str, npt.NDArray[np.bool_]] = {}
        for spec in self.list_features:
            lists[spec.name], masks[spec.name] = self._padded(rows, spec)
        return Encoded(cat, num, lists, masks)

    def _rows_of(self, feature: str, values: pa.Array) -> Ids:
        rows = self.vocabularies[self.vocabulary_name(feature)].lookup(_ids(values))
        if values.null_count:
            rows[values.is_null().to_numpy(zero_copy_only=False)] = 0
        return rows

    def _padded(self, rows: Rows, spec: FeatureSpec) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        column = _column(rows, spec.name, spec.kind)
        elements, starts, counts = _elements(column)
        length = self.lengths[spec.name]
        mask = np.arange(length) < counts[:, None]
        if spec.kind == "categorical_list":
            values: npt.NDArray[Any] = self._rows_of(spec.name, elements)
        else:
            values = self.normalisers[spec.name](_numbers(elements))
        padded = np.zeros(mask.shape, values.dtype)
        padded[mask] = values[(starts[:, None] + np.arange(length))[mask]]
        return padded, mask

    def to_state(self) -> dict[str, Any]:
        """Plain tensors, texts and numbers: loadable with ``torch.load(weights_only=True)``."""
        return {
            "specs": [spec.model_dump() for spec in self.specs],
            "vocabularies": {name: torch.from_numpy(v.ids.copy()) for name, v in self.vocabularies.items()},
            "normalisers": {name: [n.mean, n.std] for name, n in self.normalisers.items()},
            "lengths": dict(self.lengths),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> FeatureEncoder:
        """The inverse of ``to_state``."""
        return cls(
            [FeatureSpec.model_validate(spec) for spec in state["specs"]],
            {name: Vocabulary(ids.numpy()) for name, ids in state["vocabularies"].items()},
            {name: Normaliser(mean, std) for name, (mean, std) in state["normalisers"].items()},
            dict(state["lengths"]),
        )


def _vocabulary(spec: FeatureSpec) -> str:
    return spec.shares or spec.name


def _check_shares(specs: list[FeatureSpec]) -> None:
    owners = {spec.name for spec in specs if spec.kind == "categorical"}
    for spec in specs:
        if spec.shares is not None and (spec.kind != "categorical_list" or spec.shares not in owners):
            raise ModelConfigError(
                f"feature {spec.name} ({spec.kind}): shares {spec.shares!r}; allowed: a categorical_list that shares"
                f" one of {sorted(owners)}"
            )


def _ids_by_vocabulary(table: Rows, specs: list[FeatureSpec]) -> dict[str, Ids]:
    found: dict[str, list[Ids]] = {}
    for spec in specs:
        if spec.kind.startswith("categorical"):
            found.setdefault(_vocabulary(spec), []).append(_ids(_flat(table, spec).drop_null()))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _fitted_length(table: Rows, spec: FeatureSpec) -> int:
    _, _, counts = _elements(_column(table, spec.name, spec.kind))
    return int(min(max(counts.max(initial=0), 1), MAX_LIST_LENGTH))


def _flat(rows: Rows, spec: FeatureSpec) -> pa.Array:
    column = _column(rows, spec.name, spec.kind)
    return column.flatten() if spec.kind.endswith("list") else column


def _column(rows: Rows, name: str, kind: str) -> pa.Array:
    """One Arrow array of the feature, its type checked."""
    place = rows.schema.get_field_index(name)
    if place < 0:
        raise FeatureMismatchError(f"feature {name}: no such column; the rows have {rows.schema.names}")
    column = rows.column(place)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    value_type = column.type.value_type if is_list else column.type
    integer, number = pa.types.is_integer(value_type), pa.types.is_floating(value_type)
    if is_list != kind.endswith("list") or not (integer or (number and kind.startswith("numeric"))):
        raise FeatureMismatchError(f"feature {name}: got {column.type}; a {kind} feature is needed")
    return column


def _ids(values: pa.Array) -> Ids:
    filled = pc.fill_null(values, 0) if values.null_count else values
    return filled.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)


def _numbers(values: pa.Array) -> Floats:
    return values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)


def _elements(column: pa.Array) -> tuple[pa.Array, Ids, Ids]:
    """All elements of a list column, and each row's first place and count among them (null rows have none)."""
    offsets = column.offsets.to_numpy().astype(np.int64)
    # A slice of a batch keeps the whole batch's values: encode only what its rows point at.
    elements = column.values.slice(offsets[0], offsets[-1] - offsets[0])
    counts = np.diff(offsets)
    if column.null_count:
        counts[column.is_null().to_numpy(zero_copy_only=False)] = 0
    return elements, offsets[:-1] - offsets[0], counts


def _signed_log(values: Floats) -> Floats:
    return np.copysign(np.log1p(np.abs(values)), values)
