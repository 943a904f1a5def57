"""The data contract: typed settings of one data set, its clocks, as-of features and histories."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializationInfo,
    ValidationInfo,
    field_validator,
    model_validator,
)

from feature_store.clocks import DAY_MS, HistoryClock, PartitionClock, duration_ms
from feature_store.contract_names import check_names

RAW_SPACE = "raw"
EVER = "ever"
AS_WRITTEN = "as written"
"""Context of a validation or a dump of settings as a person writes them: durations have their unit."""


class Strict(BaseModel):
    """Base of all settings: frozen, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _duration(value: Any, info: ValidationInfo) -> int:
    without_unit = isinstance(value, int) and value != 0 and info.context == AS_WRITTEN
    if isinstance(value, bool) or not isinstance(value, int | str) or without_unit:
        raise ValueError("allowed: a whole number and a unit, as in 30m, 6h or 1d")
    if isinstance(value, int):
        return value
    try:
        return duration_ms(value)
    except Exception as error:
        raise ValueError(str(error)) from error


def _duration_text(value: int, info: SerializationInfo) -> int | str:
    return f"{value}ms" if info.context == AS_WRITTEN else value


def _window(text: str) -> str:
    if text != EVER and re.fullmatch(r"0*[1-9]\d*(ms|s|m|h|d)", text) is None:
        raise ValueError("allowed: ever, or a whole number above 0 and a unit, as in 30m, 6h or 1d")
    return text


Duration = Annotated[int, BeforeValidator(_duration), PlainSerializer(_duration_text), Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Window = Annotated[str, AfterValidator(_window)]


class ReadConfig(Strict):
    """Files or a Delta table. ``${LOOPFM_DATA}`` in a path stands for the data root; globs and URIs are allowed."""

    format: Literal["parquet", "csv", "delta"]
    paths: list[str] = Field(min_length=1)
    options: dict[str, str] = Field(default={}, description="Spark's options of the format, such as header")
    delta_version: int | None = Field(default=None, ge=0)


class ExplodeConfig(Strict):
    """One row per element of a list column; ``position`` names the column that gets the element's place."""

    column: str
    name: Name
    position: Name = "position"


class JoinConfig(Strict):
    """A side table joined on equal ids; ``columns`` names what it brings, as Spark SQL over the side table."""

    read: ReadConfig
    on: dict[str, str] = Field(min_length=1, description="source column -> side table column")
    columns: dict[Name, str] = Field(min_length=1)


class NegativeSampling(Strict):
    """Negatives for click-only data: every source row is a positive, and items seen before it are drawn.

    The law, exactly (``sources/negatives.py``): for a positive at t let h be the start of its ``bucket``; an item
    counts the source rows that hold it in [h - window, h). Items with count c > 0, the positive's own apart, are drawn
    without repeats, each with chance min(1, per_positive * c**power / sum of c**power), stored as ``sampling_rate``
    (1 for positives) so that weights and calibration can undo the sampling. Negatives share the positive's impression.
    """

    per_positive: int = Field(ge=1)
    window: Duration = Field(default=DAY_MS, description="items counted over this long before the event; whole buckets")
    bucket: Duration = Field(default=10 * 60_000, ge=1, description="counts move forward in steps of this")
    power: float = Field(default=0.75, ge=0, le=1, description="chance ~ count ** power; 0 is uniform over seen items")
    seed: int = 17

    @model_validator(mode="after")
    def _whole_buckets(self) -> Self:
        if self.window % self.bucket or not self.window:
            raise ValueError(f"window: got {self.window} ms; allowed: a multiple of bucket ({self.bucket} ms)")
        return self


class PastEvents(Strict):
    """A second source of past events that feeds raw histories and event lists only, never examples.

    Read are those of the partitions that are ingested, and of ``histories.retention`` before the first of them; what
    the source gains later is read when a partition is ingested again. An entity must have the type that it has in the
    source, or ids would differ. A label is known its ``delay`` after the event, whatever its ``available_at``.
    """

    read: ReadConfig
    explode: list[str] = Field(default=[], description="list columns of equal length, exploded together")
    entities: dict[Name, str]
    event_ts: str
    unit: Literal["s", "ms", "iso", "timestamp"] = "timestamp"
    labels: dict[Name, str] = Field(description="label name -> Spark SQL giving 0 or 1")
    expected_columns: dict[str, str] | None = Field(default=None, description="as in the source itself")


class InstantColumn(Strict):
    """An instant read from the source: Spark SQL and its unit."""

    value: str
    unit: Literal["s", "ms", "iso", "timestamp"] = "timestamp"


class LabelColumn(Strict):
    """A label: Spark SQL giving 0 or 1 (null: no label for this row), known ``delay`` after the event."""

    value: str
    delay: Duration = 0
    available_at: InstantColumn | None = Field(default=None, description="overrides delay where the source knows it")


class FeatureColumn(Strict):
    """A feature of the source row and when it is known."""

    value: str
    kind: Literal["categorical", "numeric", "categorical_list", "numeric_list"]
    known: Literal["event", "after"] = Field(default="event", description="after: never a feature of any model")


class WorldConfig(Strict):
    """The generated world: users and items with slow and fast hidden state that only the FM's features show.

    Reports show its bounds beside the arms, for verticals whose label is its column ``click`` (rows of the feed) or
    ``purchase`` (of the shop). The two bounds of the VM's features stand for ``hour``, ``segment``, ``category``,
    ``device`` and, where there are placements, ``placement``; they are left out where a vertical's VM sees others.
    """

    start: str = "2026-01-01"
    days: int = Field(default=10, ge=1)
    rows_per_day: int = Field(default=20_000, ge=1)
    users: int = Field(default=2_000, ge=2)
    items: int = Field(default=400, ge=2)
    placements: int = Field(
        default=0,
        ge=0,
        exclude_if=lambda value: value == 0,
        description="places a row is shown at, each with a fixed effect of which labels tell little: 0 for none",
    )
    effects: float = Field(default=1.0, ge=0, description="scale of the planted effects; 0 switches them off")
    drift: float = Field(default=0.02, ge=0, description="share of a hidden state that is renewed each day")
    late_share: float = Field(default=0.01, ge=0, lt=1)
    bad_share: float = Field(default=0.002, ge=0, lt=1)
    label_delay: Duration = 2 * 60 * 60 * 1000
    seed: int = 7

    @field_validator("start")
    @classmethod
    def _is_a_day(cls, start: str) -> str:
        try:
            PartitionClock(DAY_MS).start(start)
        except Exception as error:
            raise ValueError(f"allowed: a day as in 2026-01-01; {error}") from error
        return start


class SourceConfig(Strict):
    """Where rows come from: files (``read``) or the generated world (``world``), and how they become examples."""

    read: ReadConfig | None = None
    world: WorldConfig | None = None
    joins: list[JoinConfig] = Field(default=[], description="side tables, joined on equal ids")
    where: str | None = Field(default=None, description="Spark SQL filter over source rows; null keeps the row")
    explode: ExplodeConfig | None = None
    negatives: NegativeSampling | None = None
    past_events: PastEvents | None = None
    expected_columns: dict[str, str] | None = Field(default=None, description="source column -> Spark type; checked")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.read is None) == (self.world is None):
            raise ValueError("allowed: exactly one of read and world")
        return self

    @model_validator(mode="after")
    def _negatives_fit(self) -> Self:
        if self.negatives is not None and self.explode is not None:
            raise ValueError(
                f"negatives: got them beside explode of {self.explode.column!r}; allowed: one of the two: exploded "
                "rows hold what was shown and not taken"
            )
        return self


class AsOfFeature(Strict):
    """A feature over strictly past events, computed on either clock (FM: the event; VM: closed partitions + lag).

    kind ``count``: weighted examples of the key; ``label_count``: weighted positives whose label is known;
    ``label_rate``: positives / labelled examples (0 where none is known); ``age``: hours since the key was first seen
    (-1: never). Windows run back from the newest visible instant. Columns: NAME_WINDOW (``age``: NAME).
    """

    name: Name
    kind: Literal["count", "label_count", "label_rate", "age"]
    key: list[Name] = Field(min_length=1, description="entities or categorical features that compose the key")
    label: Name | None = None
    windows: list[Window] = []

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        if self.kind.startswith("label") != (self.label is not None):
            raise ValueError(f"kind {self.kind}: label is {'required' if self.label is None else 'not allowed'}")
        if (self.kind == "age") == bool(self.windows):
            raise ValueError(f"kind {self.kind}: windows are {'not allowed' if self.windows else 'required'}")
        return self

    @property
    def columns(self) -> list[str]:
        """Names of the columns that this declaration makes."""
        return [self.name] if self.kind == "age" else [f"{self.name}_{window}" for window in self.windows]


class EventList(Strict):
    """The newest ``length`` past events of a key as a list: the entity of each and its age in hours.

    Columns: NAME (array of ids, newest first) and NAME_age_hours. Only events whose ``label`` is a known positive count
    when it is given. The past events of the second source are included.
    """

    name: Name
    key: list[Name] = Field(min_length=1)
    entity: Name
    length: int = Field(ge=1, le=256, description="models read no longer lists")
    label: Name | None = None


class WithinImpression(Strict):
    """Rank (0 is the highest) and difference from the mean within the impression, for as-of columns.

    Columns: COLUMN_rank and COLUMN_diff.
    """

    columns: list[str] = []


class HistoryConfig(Strict):
    """Histories of tokens: which keys, how long, over how many partitions back."""

    keys: dict[Name, list[Name]] = Field(default={"user": ["user"], "item": ["item"]}, min_length=1)
    length: int = Field(default=50, ge=1, description="L: newest tokens of a key")
    retention: Duration = Field(default=30 * DAY_MS, description="how far back a history looks for segments")
    raw_label: Name | None = Field(default=None, description="raw tokens: keep only known positives of this label")
    availability: Literal["closed", "at_once"] = Field(
        default="closed",
        # Left out of digests, so that what was written before the field was there stays fresh.
        exclude_if=lambda value: value == "closed",
        description="closed: partitions that have closed, and the lag; at_once: what no batch has, to measure against: "
        "tokens from their arrival on",
    )


class Vertical(Strict):
    """A surface with its own label and VM."""

    label: Name
    where: str | None = Field(default=None, description="Spark SQL filter over examples; all rows when absent")
    features: list[str] = Field(min_length=1, description="request-time features that the VM may see")
    counters: list[Name] = Field(default=[], description="as-of declarations read on the VM's clock (+counters arm)")


class Checks(Strict):
    """What a step tolerates."""

    max_reject_share: float = Field(default=0.05, ge=0, le=1, description="of a step's rows; above it the step fails")


class DatasetConfig(Strict):
    """One data set: its source, columns, clocks, as-of features, histories and verticals."""

    name: Name
    source: SourceConfig
    grain: Duration = Field(description="length of a partition: a divisor of a day, from 10 minutes")
    day_offset: Duration = Field(default=0, description="where partitions start, relative to UTC midnight")
    lag: Duration = Field(description="delay after a partition closes until the batch has published it")
    training_lag: Duration = Field(default=0, description="delay after fm_train_cutoff until the FM is in use")
    entities: dict[Name, str] = Field(description="entity -> Spark SQL; user and item are required")
    event_ts: InstantColumn = Field(description="when the example happened")
    arrived_at: InstantColumn | None = Field(default=None, description="when its row reached the source (event_ts)")
    impression_id: str | None = Field(default=None, description="Spark SQL of what was shown together")
    weight: str | None = Field(default=None, description="Spark SQL of a row's weight (1 when absent)")
    sampling_rate: str | None = Field(default=None, description="Spark SQL of the chance that a row was kept")
    labels: dict[Name, LabelColumn] = Field(min_length=1)
    features: dict[Name, FeatureColumn] = Field(default={}, description="features of the source row")
    as_of: list[AsOfFeature] = Field(default=[], description="counts, rates and ages over strictly past events")
    event_lists: list[EventList] = Field(default=[], description="past events of a key as lists, for the FM")
    within_impression: WithinImpression = WithinImpression()
    fm_features: list[str] = Field(min_length=1, description="columns, as-of declarations or lists that the FM reads")
    fm_clock: Literal["event", "batch"] = Field(
        default="event",
        description="when the FM's as-of columns and lists see an event: at once, or from closed partitions + lag",
    )
    histories: HistoryConfig = HistoryConfig()
    verticals: dict[Name, Vertical] = Field(min_length=1)
    checks: Checks = Checks()

    @property
    def clock(self) -> PartitionClock:
        """Partition arithmetic at this data set's grain."""
        return PartitionClock(self.grain, self.day_offset)

    @property
    def history_clock(self) -> HistoryClock:
        """From when histories show a token."""
        return HistoryClock(self.clock, self.lag, self.histories.availability == "at_once")

    @property
    def heads(self) -> list[str]:
        """Verticals in the order of an FM's logits."""
        return list(self.verticals)

    @property
    def event_features(self) -> dict[str, FeatureColumn]:
        """Source features known at the event: the only ones that a model may read."""
        return {name: column for name, column in self.features.items() if column.known == "event"}

    @property
    def has_partials(self) -> bool:
        """Whether a declaration looks back over partitions, so that fm-inputs writes partial sums."""
        return bool(self.as_of or self.event_lists)

    def as_of_columns(self, name: str) -> list[str] | None:
        """Columns that the as-of declaration ``name`` makes, its within-impression columns included."""
        for feature in self.as_of:
            if feature.name == name:
                within = [c for c in feature.columns if c in self.within_impression.columns]
                return feature.columns + [f"{c}{suffix}" for c in within for suffix in ("_rank", "_diff")]
        return None

    @model_validator(mode="after")
    def _clock_fits(self) -> Self:
        try:
            _ = self.clock
        except Exception as error:
            raise ValueError(str(error)) from error
        return self

    @model_validator(mode="after")
    def _availability_fits(self) -> Self:
        if self.history_clock.at_once and self.fm_clock == "batch":
            raise ValueError("fm_clock: got batch; allowed with histories.availability at_once: event")
        return self

    @model_validator(mode="after")
    def _rates_are_told_once(self) -> Self:
        if self.source.negatives is not None and self.sampling_rate is not None:
            raise ValueError(
                f"sampling_rate: got {self.sampling_rate!r}; allowed beside source.negatives, which give each row its "
                "rate: none; a share of kept positives can be told as weight"
            )
        return self

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        for required in ("user", "item"):
            if required not in self.entities:
                raise ValueError(f"entities: got {sorted(self.entities)}; {required!r} is required")
        categorical = {n for n, c in self.event_features.items() if c.kind == "categorical"} | set(self.entities)
        composing = {f"as_of.{f.name}": f.key for f in self.as_of}
        composing |= {f"event_lists.{f.name}": [*f.key, f.entity] for f in self.event_lists}
        composing |= {f"histories.keys.{name}": key for name, key in self.histories.keys.items()}
        for field, key in composing.items():
            _known(f"{field}.key", key, categorical)
        raw_label = self.histories.raw_label
        _known("histories.raw_label", [raw_label] if raw_label else [], {v.label for v in self.verticals.values()})
        columns = {column for feature in self.as_of for column in feature.columns}
        _known("within_impression.columns", self.within_impression.columns, columns)
        if self.within_impression.columns and self.impression_id is None:
            raise ValueError(
                f"within_impression.columns: got {self.within_impression.columns}; allowed without impression_id: none"
            )
        check_names(self)
        return self

    @model_validator(mode="after")
    def _features_are_known(self) -> Self:
        request = set(self.event_features) | set(self.entities)
        declared = {f.name for f in self.as_of}
        lists = {f.name for f in self.event_lists}
        after = set(self.features) - set(self.event_features)
        for field, names, allowed in [
            ("fm_features", self.fm_features, request | declared | lists),
            *((f"verticals.{n}.features", v.features, request) for n, v in self.verticals.items()),
            *((f"verticals.{n}.counters", v.counters, declared) for n, v in self.verticals.items()),
            *((f"verticals.{n}.label", [v.label], set(self.labels)) for n, v in self.verticals.items()),
        ]:
            late = sorted(set(names) & after)
            if late:
                raise ValueError(f"{field}: {late} are known only after the event and can never be features")
            _known(field, names, allowed)
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{field}: got {twice} more than once; allowed: each name once")
        return self

    @model_validator(mode="after")
    def _as_of_labels_are_stored(self) -> Self:
        used = sorted({vertical.label for vertical in self.verticals.values()})
        named = {f"as_of.{f.name}.label": f.label for f in self.as_of}
        named |= {f"event_lists.{f.name}.label": f.label for f in self.event_lists}
        for field, label in named.items():
            if label is not None and label not in used:
                raise ValueError(
                    f"{field}: got {label!r}, which is the label of no vertical, so that none is stored; "
                    f"allowed: {used}, the labels of verticals {list(self.verticals)}"
                )
        return self


def _known(field: str, names: list[str], allowed: Any) -> None:
    unknown = sorted(set(names) - set(allowed))
    if unknown:
        raise ValueError(f"{field}: got {unknown}; allowed: {sorted(allowed)}")
