"""The fixed schema of every table, as Arrow schemas in code; Spark's are derived from these.

Instants are int64 milliseconds. ``part`` and the other partition columns come first.
"""

from __future__ import annotations

import pyarrow as pa

from feature_store.config import DatasetConfig

PARTITION_COLUMNS: dict[str, list[str]] = {
    "examples": ["part"],
    "labels": ["part"],
    "past_events": ["part"],
    "quarantine": ["part"],
    "partials": ["inputs_id", "part"],
    "fm_inputs": ["inputs_id", "part"],
    "fm_outputs": ["space_id", "part"],
    "segments": ["space_id", "key", "part"],
    "histories": ["space_id", "key", "part"],
    "features": ["space_id", "vertical", "part"],
    "ledger": ["table"],
    "evaluations": ["vertical"],
}

FEATURE_TYPES: dict[str, pa.DataType] = {
    "categorical": pa.int64(),
    "numeric": pa.float32(),
    "categorical_list": pa.list_(pa.int64()),
    "numeric_list": pa.list_(pa.float32()),
}

QUARANTINE = pa.schema(
    [
        ("part", pa.string()),
        ("reason", pa.string()),
        ("source_file", pa.string()),
        ("row", pa.string()),
    ]
)

LABELS = pa.schema(
    [
        ("part", pa.string()),
        ("example_id", pa.int64()),
        ("vertical", pa.string()),
        ("label", pa.int8()),
        ("label_available_at", pa.int64()),
    ]
)

FM_OUTPUT_FIELDS = [
    ("event_ts", pa.int64()),
    ("arrived_at", pa.int64()),
    ("z", pa.binary()),
    ("logits", pa.list_(pa.float32())),
]

TOKEN_FIELDS = [
    ("n", pa.int32()),
    ("event_ts", pa.list_(pa.int64())),
    ("entities", pa.list_(pa.int64())),
    ("z", pa.binary()),
    ("logits", pa.list_(pa.float32())),
    ("labels", pa.list_(pa.int8())),
    ("label_available_at", pa.list_(pa.int64())),
]

SEGMENTS = pa.schema(
    [
        ("space_id", pa.string()),
        ("key", pa.string()),
        ("part", pa.string()),
        ("key_id", pa.int64()),
        ("arrival_end", pa.int64()),
        ("example_id", pa.list_(pa.int64())),
        *TOKEN_FIELDS,
    ]
)

HISTORIES = pa.schema(
    [
        ("space_id", pa.string()),
        ("key", pa.string()),
        ("part", pa.string()),
        ("key_id", pa.int64()),
        ("as_of", pa.int64()),
        *TOKEN_FIELDS,
    ]
)


def _entity_fields(dataset: DatasetConfig) -> list[tuple[str, pa.DataType]]:
    return [(name, pa.int64()) for name in dataset.entities]


def _feature_fields(dataset: DatasetConfig, names: list[str]) -> list[tuple[str, pa.DataType]]:
    return [(n, FEATURE_TYPES[dataset.features[n].kind]) for n in names if n not in dataset.entities]


def examples_schema(dataset: DatasetConfig) -> pa.Schema:
    """examples: one row an impression, with the features known at the event."""
    return pa.schema(
        [
            ("part", pa.string()),
            ("example_id", pa.int64()),
            *_entity_fields(dataset),
            ("event_ts", pa.int64()),
            ("arrived_at", pa.int64()),
            ("impression_id", pa.int64()),
            ("weight", pa.float32()),
            ("sampling_rate", pa.float32()),
            *_feature_fields(dataset, list(dataset.event_features)),
        ]
    )


def past_events_schema(dataset: DatasetConfig) -> pa.Schema:
    """past_events: events of the second source; one label column each, 0, 1 or null."""
    return pa.schema(
        [
            ("part", pa.string()),
            ("example_id", pa.int64()),
            *_entity_fields(dataset),
            ("event_ts", pa.int64()),
            *((f"label_{name}", pa.int8()) for name in dataset.labels),
        ]
    )


def partials_schema(dataset: DatasetConfig) -> pa.Schema:
    """partials: what one partition of events adds to long as-of windows and event lists, per key.

    ``measure`` is CLOCK.NAME; ``available_at`` the instant from which a row counts; ``first_ts`` the earliest event in
    it; ``units`` a weighted sum as a whole number. Rows of a list are single events: ``entity`` and ``example_id``.
    ``key_values`` are the values that the key is composed of.
    """
    numbers = ("available_at", "first_ts", "units", "entity", "example_id")
    return pa.schema(
        [
            ("inputs_id", pa.string()),
            ("part", pa.string()),
            ("key", pa.string()),
            ("key_id", pa.int64()),
            ("key_values", pa.list_(pa.int64())),
            ("measure", pa.string()),
            *((name, pa.int64()) for name in numbers),
        ]
    )


def fm_inputs_schema(dataset: DatasetConfig) -> pa.Schema:
    """fm_inputs: every column that the FM reads, so that train-fm and infer read one table; and what composes keys."""
    return pa.schema(
        [
            ("inputs_id", pa.string()),
            ("part", pa.string()),
            ("example_id", pa.int64()),
            *_entity_fields(dataset),
            ("event_ts", pa.int64()),
            ("arrived_at", pa.int64()),
            ("weight", pa.float32()),
            ("sampling_rate", pa.float32()),
            *fm_feature_fields(dataset),
            *_feature_fields(dataset, [n for n in composing_features(dataset) if n not in dataset.fm_features]),
        ]
    )


def fm_feature_fields(dataset: DatasetConfig) -> list[tuple[str, pa.DataType]]:
    """Columns of ``fm_features`` beyond the entities, in order, as-of declarations and lists spelled out."""
    fields: list[tuple[str, pa.DataType]] = []
    lists = {event_list.name for event_list in dataset.event_lists}
    for name in dataset.fm_features:
        if name in lists:
            fields += [(name, pa.list_(pa.int64())), (f"{name}_age_hours", pa.list_(pa.float32()))]
        elif (columns := dataset.as_of_columns(name)) is not None:
            fields += [(column, pa.float32()) for column in columns]
        else:
            fields += _feature_fields(dataset, [name])
    return fields


def fm_outputs_schema(dataset: DatasetConfig) -> pa.Schema:
    """fm_outputs: one FM pass per unique example; logits in the order of the space's heads."""
    return pa.schema(
        [
            ("space_id", pa.string()),
            ("part", pa.string()),
            ("example_id", pa.int64()),
            *_entity_fields(dataset),
            *_feature_fields(dataset, composing_features(dataset)),
            *FM_OUTPUT_FIELDS,
        ]
    )


def composing_features(dataset: DatasetConfig) -> list[str]:
    """Categorical features, entities apart, that some history key is composed of."""
    names = [name for key in dataset.histories.keys.values() for name in key if name not in dataset.entities]
    return list(dict.fromkeys(names))


def features_schema(dataset: DatasetConfig) -> pa.Schema:
    """features: what a VM trains on and scores; the union of all verticals' columns, null where one may not see it.

    ``key_NAME`` is the example's id for history key NAME, ``as_of`` the horizon of its histories (null: none readable),
    ``teacher_logit`` the FM's logit of this row's vertical (null where the example may not be distilled), ``label``
    null where there is none, or none yet.
    """
    verticals = dataset.verticals.values()
    request = list(dict.fromkeys(name for v in verticals for name in v.features))
    counters = list(dict.fromkeys(c for v in verticals for d in v.counters for c in dataset.as_of_columns(d) or []))
    return pa.schema(
        [
            ("space_id", pa.string()),
            ("vertical", pa.string()),
            ("part", pa.string()),
            ("example_id", pa.int64()),
            *_entity_fields(dataset),
            ("event_ts", pa.int64()),
            ("impression_id", pa.int64()),
            ("weight", pa.float32()),
            ("sampling_rate", pa.float32()),
            ("label", pa.int8()),
            ("label_available_at", pa.int64()),
            ("teacher_logit", pa.float32()),
            ("as_of", pa.int64()),
            *((f"key_{name}", pa.int64()) for name in dataset.histories.keys),
            *_feature_fields(dataset, request),
            *((f"counter_{column}", pa.float32()) for column in counters),
        ]
    )


EVALUATIONS = pa.schema(
    [
        ("vertical", pa.string()),
        ("model_name", pa.string()),
        ("model_version", pa.string()),
        ("run_id", pa.string()),
        ("space_id", pa.string()),
        ("arm", pa.string()),
        ("seed", pa.int32()),
        ("first_part", pa.string()),
        ("last_part", pa.string()),
        ("slice", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("rows", pa.int64()),
        ("coverage", pa.float64()),
        ("staleness_hours", pa.float64()),
        ("computed_at", pa.int64()),
    ]
)

LEDGER = pa.schema(
    [
        ("table", pa.string()),
        ("scope", pa.string()),
        ("part", pa.string()),
        ("state", pa.string()),
        ("attempt", pa.int64()),
        ("token", pa.string()),
        ("step", pa.string()),
        ("step_version", pa.int32()),
        ("definition", pa.string()),
        ("version_written", pa.int64()),
        ("versions_read", pa.string()),
        ("rows", pa.int64()),
        ("rejected", pa.int64()),
        ("digest", pa.string()),
        ("run_id", pa.string()),
        ("commit", pa.string()),
        ("message", pa.string()),
        ("started_at", pa.int64()),
        ("computed_at", pa.int64()),
    ]
)


def table_schema(dataset: DatasetConfig, table: str) -> pa.Schema:
    """The fixed schema of ``table`` for one data set."""
    fixed = {
        "labels": LABELS,
        "quarantine": QUARANTINE,
        "segments": SEGMENTS,
        "histories": HISTORIES,
        "ledger": LEDGER,
        "evaluations": EVALUATIONS,
    }
    if table in fixed:
        return fixed[table]
    derived = {
        "examples": examples_schema,
        "past_events": past_events_schema,
        "partials": partials_schema,
        "fm_inputs": fm_inputs_schema,
        "fm_outputs": fm_outputs_schema,
        "features": features_schema,
    }
    return derived[table](dataset)
