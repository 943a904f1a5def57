"""Batches of examples from pinned Parquet files, through a bounded buffer filled in the background."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from models.alignment import Alignment
from models.config import VmConfig
from models.encode import FeatureEncoder
from models.feed_files import FeedFiles, by_part, check_spaces, read_file, stream_file
from models.histories import Histories, TokenColumns, decode_histories
from models.slates import slate_codes, whole_slates
from models.vm_data import HistoryBatch, HistoryKey, VmBatch, VmInputs, history_keys
from models.vm_encoder import VmEncoder
from models.vocabulary import Vocabulary

Ints = npt.NDArray[np.int64]
Slices = list[tuple[str, pa.Table]]

DEFAULT_BUFFER_ROWS = 2_000_000
FIT_ROWS = 2_000_000
ROW_COLUMNS = [
    "example_id",
    "user",
    "event_ts",
    "impression_id",
    "weight",
    "sampling_rate",
    "label",
    "label_available_at",
    "teacher_logit",
]
FIT_COLUMNS = ["label", "label_available_at", "weight", "sampling_rate"]


class FeatureFeed:
    """Examples of one vertical with their histories.

    Parts come in an order drawn from the seed, in groups of at most half the buffer: one is read while the other is
    used, and rows are shuffled within a group. Everything stays in memory where all rows fit the buffer.

    Args:
        files: pinned files of tables ``features`` and ``histories``.
        inputs: the vertical's declared inputs.
        config: the VM; only what its readers need is read.
        known_at: leave out rows whose label is null or becomes available after this instant; None keeps all rows.
        buffer_rows: most examples held at once.
        alignment: maps vectors of another space, whose files these are, to that of ``inputs``.

    Raises:
        SpaceMismatchError: a history is of another space than its reader expects, and no alignment leads there.
        FeatureMismatchError: a key has no files.
    """

    def __init__(
        self,
        files: FeedFiles,
        inputs: VmInputs,
        config: VmConfig,
        *,
        known_at: int | None,
        buffer_rows: int = DEFAULT_BUFFER_ROWS,
        alignment: Alignment | None = None,
    ) -> None:
        self.files, self.inputs, self.config = files, inputs, config
        self.known_at, self.buffer_rows = known_at, buffer_rows
        self.specs = inputs.specs(config)
        self.keys = needed_columns(config)
        self.alignment = alignment
        if alignment is not None:
            alignment.require_target(inputs.space_id, inputs.code_dim, inputs.code_bits)
        check_spaces(files, list(self.keys), alignment.source.space_id if alignment else inputs.space_id)
        self._parts = by_part(files.features)
        self._histories = {key: by_part(files.of(key)) for key in self.keys}
        self._resident: tuple[VmEncoder, VmBatch] | None = None
        self._held: tuple[tuple[str, ...], dict[HistoryKey, Histories]] | None = None

    @property
    def rows(self) -> int:
        """Rows of the files, before rows without a known label are left out."""
        return sum(file.rows for file in self.files.features)

    def fit_encoder(self, start: VmEncoder | None = None, fit_rows: int = FIT_ROWS) -> tuple[VmEncoder, float]:
        """Fit vocabularies and normalisers on these rows (``start``: extend those of a model to start from).

        The VM's columns of at most ``fit_rows`` rows are held meanwhile: above, every k-th row of each file is taken.

        Returns:
            The encoder, and the weighted base rate.
        """
        columns = list(dict.fromkeys([*(s.name for s in self.specs), *FIT_COLUMNS]))
        step = -(-self.rows // fit_rows) or 1
        tables = [self._usable(_every(read_file(f, columns), step)) for f in self.files.features]
        table = pa.concat_tables(tables).combine_chunks()
        known = start.features if start else FeatureEncoder([], {}, {}, {})
        features = known.extend(table, self.specs, self.config.max_vocabulary)
        label, weight = _label(table), _weights(table)[0]
        rate = float((weight * label).sum() / weight.sum()) if len(label) else 0.5
        return VmEncoder(features, self._entity_vocabularies(features, start, step)), rate

    def _entity_vocabularies(
        self, features: FeatureEncoder, start: VmEncoder | None, step: int
    ) -> dict[str, Vocabulary]:
        vocabularies = dict(start.entities) if start else {}
        raw = [key for key, needed in self.keys.items() if needed == "entities"]
        wanted = [name for name in self.inputs.entities if name not in features.categorical]
        if not raw or not wanted:
            return vocabularies
        files = [file for key in raw for file in self.files.of(key)]
        flat = [_flat_ids(_every(read_file(file, ["entities"]), step)) for file in files]
        ids = np.concatenate([np.zeros(0, np.int64), *flat]).reshape(-1, len(self.inputs.entities))
        limit = self.config.max_vocabulary
        for name in wanted:
            own = ids[:, self.inputs.entities.index(name)]
            known = vocabularies.get(name)
            vocabularies[name] = known.extend(own, limit) if known else Vocabulary.fit(own, limit)
        return vocabularies

    def batches(self, encoder: VmEncoder, batch_size: int, shuffle_seed: int | None = None) -> Iterator[VmBatch]:
        """One pass over all rows; without a seed in file order, slate by slate where the VM compares within them.

        Where all rows fit the buffer and no slates are kept together, the order that a seed draws depends on the rows
        alone, not on their files: other partitions of the same rows train alike.

        Raises:
            FeatureMismatchError: a file lacks a column.
        """
        rng = None if shuffle_seed is None else np.random.default_rng(shuffle_seed)
        for group in self._groups(encoder, rng):
            if self.config.within_impression:
                yield from (group.take(rows) for rows in whole_slates(group.slate.numpy(), batch_size, rng))
                continue
            order = np.arange(len(group)) if rng is None else rng.permutation(np.argsort(group.example_id.numpy()))
            rows = torch.from_numpy(order)
            for start in range(0, len(group), batch_size):
                yield group.take(rows[start : start + batch_size])

    def _groups(self, encoder: VmEncoder, rng: np.random.Generator | None) -> Iterator[VmBatch]:
        if self.rows > self.buffer_rows:
            yield from _ahead(self._assemble(slices, encoder) for slices in self._slices(rng, self.buffer_rows // 2))
            return
        if self._resident is None or self._resident[0] is not encoder:
            slices = next(self._slices(None, max(1, self.rows)), [])
            if not slices:
                return
            self._resident = (encoder, self._assemble(slices, encoder))
            self._held = None
        yield self._resident[1]

    def _slices(self, rng: np.random.Generator | None, limit: int) -> Iterator[Slices]:
        """Groups of whole parts of at most ``limit`` rows. A larger part comes in slices of its own, but as a whole
        where the VM compares within impressions, whose rows lie anywhere in it."""
        parts = list(self._parts)
        if rng is not None:
            parts = [parts[place] for place in rng.permutation(len(parts))]
        group: Slices = []
        held = 0
        for part in parts:
            rows = sum(file.rows for file in self._parts[part])
            if held and held + rows > limit:
                yield group
                group, held = [], 0
            if rows > limit and not self.config.within_impression:
                yield from ([(part, table)] for table in self._stream(part, max(1, limit)))
                continue
            group += [(part, read_file(file, self._columns)) for file in self._parts[part]]
            held += rows
        if group:
            yield group

    def _stream(self, part: str, limit: int) -> Iterator[pa.Table]:
        for file in self._parts[part]:
            yield from stream_file(file, self._columns, limit)

    @property
    def _columns(self) -> list[str]:
        histories = ["as_of", *(f"key_{name}" for _, name in self.keys)] if self.keys else []
        return list(dict.fromkeys([*(s.name for s in self.specs), *ROW_COLUMNS, *histories]))

    def _usable(self, table: pa.Table) -> pa.Table:
        if self.known_at is None:
            return table
        known = pc.less_equal(table["label_available_at"], self.known_at)
        return table.filter(pc.and_(pc.fill_null(known, False), pc.is_valid(table["label"])))

    def _assemble(self, slices: Slices, encoder: VmEncoder) -> VmBatch:
        """All examples of some slices (at least one) as one batch, with the histories of their parts."""
        names = tuple(dict.fromkeys(part for part, _ in slices))
        code = {part: place for place, part in enumerate(names)}
        tables = [self._usable(table) for _, table in slices]
        table = pa.concat_tables(tables).combine_chunks()
        counts = [t.num_rows for t in tables]
        part_code = np.repeat(np.array([code[part] for part, _ in slices], np.int64), counts)
        histories = self._load_histories(names, encoder)
        return make_batch(table, encoder, part_code, histories, slates=self.config.within_impression)

    def _load_histories(self, parts: tuple[str, ...], encoder: VmEncoder) -> dict[HistoryKey, Histories]:
        if self._held is None or self._held[0] != parts:
            self._held = None
            self._held = (parts, {key: self._read_key(key, parts, encoder) for key in self.keys})
        return self._held[1]

    def _read_key(self, key: HistoryKey, parts: tuple[str, ...], encoder: VmEncoder) -> Histories:
        columns = token_columns(self.keys[key], self.inputs, encoder, self.alignment)
        files = [(place, f) for place, part in enumerate(parts) for f in self._histories[key].get(part, [])]
        tables = [read_file(file, columns.names) for _, file in files]
        part_code = np.repeat(np.array([p for p, _ in files], np.int64), [t.num_rows for t in tables])
        table = pa.concat_tables(tables) if tables else _no_histories(columns)
        return decode_histories(table, part_code, columns, key[1])


def needed_columns(config: VmConfig) -> dict[HistoryKey, str]:
    """History keys of the readers, and what of their tokens is needed: positions, vectors or entities."""
    keys: dict[HistoryKey, str] = {}
    for reader in config.readers:
        needed = {"fm": "vectors", "raw": "entities", "control": "positions"}[reader.tokens]
        for key in history_keys(reader):
            keys[key] = needed if keys.get(key, "positions") == "positions" else keys[key]
    return keys


def token_columns(
    needed: str, inputs: VmInputs, encoder: VmEncoder, alignment: Alignment | None = None
) -> TokenColumns:
    """Columns of table ``histories`` to decode for a key; ``alignment`` maps the vectors of another space."""
    heads = len(inputs.heads)
    if needed == "entities":
        return TokenColumns(
            heads,
            entities=lambda ids: encoder.entity_rows(ids, inputs.entities),
            entity_count=len(inputs.entities),
        )
    if needed == "vectors" and alignment is not None:
        return TokenColumns(heads, code_bytes=alignment.source.code_bytes, align=alignment.codes)
    return TokenColumns(heads, code_bytes=inputs.code_bytes if needed == "vectors" else None)


def make_batch(
    table: pa.Table, encoder: VmEncoder, part: Ints, histories: dict[HistoryKey, Histories], *, slates: bool
) -> VmBatch:
    """Rows of table ``features`` and the histories of their parts as one batch.

    Args:
        table: [N] rows.
        encoder: of the VM.
        part: code of each row's partition [N], as the histories use it.
        histories: by key; found by (part, key_NAME, as_of).
        slates: whether the VM compares the rows of an impression; if not, each row is a slate of its own.
    """
    encoded = encoder.features.encode(table)
    weight, rate = _weights(table)
    impression = table["impression_id"]
    found = {}
    for key, known in histories.items():
        index = known.find(part, _ints(table[f"key_{key[1]}"]), _ints(table["as_of"]))
        readable = pc.and_(pc.is_valid(table["as_of"]), pc.is_valid(table[f"key_{key[1]}"]))
        index = np.where(readable.to_numpy(), index, 0)
        found[key] = HistoryBatch(torch.from_numpy(index), known.pool)
    has_impression, count = pc.is_valid(impression).to_numpy(), table.num_rows
    codes = slate_codes(_ints(impression), has_impression, _ints(table["event_ts"])) if slates else np.arange(count)
    return VmBatch(
        cat=torch.from_numpy(encoded.cat),
        num=torch.from_numpy(encoded.num),
        lists={name: torch.from_numpy(values) for name, values in encoded.lists.items()},
        masks={name: torch.from_numpy(values) for name, values in encoded.masks.items()},
        example_id=_long(table["example_id"]),
        user=_long(table["user"]),
        impression_id=_long(impression),
        has_impression=torch.from_numpy(has_impression.copy()),
        event_ts=_long(table["event_ts"]),
        slate=torch.from_numpy(codes),
        label=torch.from_numpy(_label(table)),
        weight=torch.from_numpy(weight),
        sampling_rate=torch.from_numpy(rate),
        teacher_logit=torch.from_numpy(_floats(table["teacher_logit"], np.nan)),
        histories=found,
    )


def _ahead(groups: Iterator[VmBatch]) -> Iterator[VmBatch]:
    """The same groups, each read in a thread while the one before is used."""
    with ThreadPoolExecutor(1, "feed") as pool:
        following = pool.submit(next, groups, None)
        while (group := following.result()) is not None:
            following = pool.submit(next, groups, None)
            yield group
            del group


def _no_histories(columns: TokenColumns) -> pa.Table:
    types = {
        "n": pa.int32(),
        "event_ts": pa.list_(pa.int64()),
        "entities": pa.list_(pa.int64()),
        "z": pa.binary(),
        "logits": pa.list_(pa.float32()),
        "labels": pa.list_(pa.int8()),
        "label_available_at": pa.list_(pa.int64()),
    }
    return pa.schema([(name, types.get(name, pa.int64())) for name in columns.names]).empty_table()


def _every(table: pa.Table, step: int) -> pa.Table:
    return table if step == 1 else table.take(pa.array(np.arange(0, table.num_rows, step)))


def _flat_ids(table: pa.Table) -> Ints:
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table["entities"].chunks]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int64)


def _ints(column: pa.ChunkedArray) -> Ints:
    return (pc.fill_null(column, 0) if column.null_count else column).to_numpy()


def _long(column: pa.ChunkedArray) -> torch.Tensor:
    values = _ints(column)
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def _floats(column: pa.ChunkedArray, null: float) -> npt.NDArray[np.float32]:
    column = column.cast(pa.float32())
    filled = pc.fill_null(column, pa.scalar(null, pa.float32())) if column.null_count else column
    return np.array(filled.to_numpy(), np.float32)


def _label(table: pa.Table) -> npt.NDArray[np.float32]:
    return _floats(table["label"], np.nan)


def _weights(table: pa.Table) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Effective weight and sampling rate; 1 where null."""
    rate = _floats(table["sampling_rate"], 1.0)
    return _floats(table["weight"], 1.0) / rate, rate
