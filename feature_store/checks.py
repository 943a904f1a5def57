"""What a row, a file and a table must be before they are committed.

The frame is computed once. Types and names are compared before anything runs. The rules about rows are one CASE
expression, evaluated in the flow of the very job that writes the files: the first row that breaks one raises, Spark's
job fails and Delta commits nothing (its orphan files fall to vacuum). Uniqueness rides on the shuffle and the sort that
make the files anyway: rows are clustered by a hash of their key and sorted by it, so a row_number over the key needs
neither a second shuffle nor a second sort. Other ways were worse: counting first computes the frame twice, a persisted
frame is written and read once more in full, and ``observe`` tells its figures only after the commit is visible.

The CASE refers to the row number, which keeps Spark from pushing it below a join or filter, where it would meet rows
that never reach the table.

One rule is about a whole file: vectors that are all zero in every row mean a dead FM (one such row may be real). Small
partitions are one file each, so there it is a rule about the partition.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from feature_store.config import DatasetConfig
from feature_store.errors import ValidationError
from feature_store.schemas import PARTITION_COLUMNS

if TYPE_CHECKING:
    from deltalake import Schema
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import StructType

ROWS_PER_FILE = 250_000
MAX_FILES_PER_PART = 16

_MARK = "LOOPFM_CHECK"
_FOUND = re.compile(rf"{_MARK}\((.*?)\){_MARK}", re.DOTALL)
_BUCKET, _REPEAT, _VECTORS = "_bucket", "_repeat", "_vectors"


@dataclass(frozen=True)
class Vectors:
    """Sizes of a space: bytes of one packed vector (0 in space raw) and logits per token."""

    code_bytes: int
    heads: int


_UNIQUE: dict[str, list[str]] = {
    "examples": ["example_id"],
    "labels": ["example_id", "vertical"],
    "past_events": ["example_id"],
    "fm_inputs": ["example_id"],
    "fm_outputs": ["example_id"],
    "segments": ["key_id", "arrival_end"],
    "histories": ["key_id", "as_of"],
    "features": ["example_id"],
}
_SORTED = {"partials": ["key", "key_id", "measure"], "quarantine": ["reason"]}
_TOKENS = ["n", "event_ts", "entities", "z", "logits", "labels", "label_available_at"]
_EVENT = ["example_id", "user", "item", "event_ts"]
_REQUIRED: dict[str, list[str]] = {
    "examples": [*_EVENT, "arrived_at", "weight", "sampling_rate"],
    "labels": ["example_id", "vertical", "label", "label_available_at"],
    "past_events": _EVENT,
    "quarantine": ["reason"],
    "partials": ["key", "key_id", "measure", "available_at", "first_ts"],
    "fm_inputs": [*_EVENT, "arrived_at", "weight", "sampling_rate"],
    "fm_outputs": [*_EVENT, "arrived_at", "z", "logits"],
    "segments": ["key_id", "arrival_end", "example_id", *_TOKENS],
    "histories": ["key_id", "as_of", *_TOKENS],
    "features": [*_EVENT, "weight", "sampling_rate"],
}


def spark_schema(schema: pa.Schema) -> StructType:
    """The same schema in Spark's types."""
    from pyspark.sql.pandas.types import from_arrow_schema

    return from_arrow_schema(schema)


def require_schema(table: str, schema: pa.Schema, frame: DataFrame) -> None:
    """Names and types must equal the table's: nothing is narrowed, filled or dropped in silence.

    Raises:
        ValidationError: names each column that differs and both types.
    """
    wanted = {field.name: field.dataType.simpleString() for field in spark_schema(schema).fields}
    got = {field.name: field.dataType.simpleString() for field in frame.schema.fields}
    problems = [f"column {name} is missing" for name in wanted if name not in got]
    problems += [f"column {name} is not one of the table's" for name in got if name not in wanted]
    problems += [
        f"column {name} is {got[name]}, the table has {kind}"
        for name, kind in wanted.items()
        if name in got and got[name] != kind
    ]
    if len(got) != len(frame.columns):
        problems.append(f"a column occurs twice in {frame.columns}")
    if problems:
        raise ValidationError(f"{table}: {'; '.join(problems)}; nothing was written")


def require_kept_types(table: str, schema: pa.Schema, written: Schema) -> None:
    """No column that the table holds may have another type now: its older rows could not be read beside new ones.

    Args:
        table: named in messages.
        schema: as declared now.
        written: as the Delta table has it.

    Raises:
        ValidationError: names each column whose type changed and both types.
    """
    held = pa.schema(written.to_arrow())
    changed = [
        f"column {field.name} is declared {field.type}, the table holds {held.field(field.name).type}"
        for field in schema
        if field.name in held.names and _bare(field.type) != _bare(held.field(field.name).type)
    ]
    if changed:
        raise ValidationError(
            f"{table}: {'; '.join(changed)}; nothing was written: a column keeps its type, so give what has another "
            "type a new name in the YAML file"
        )


def _bare(kind: pa.DataType) -> pa.DataType:
    """The type without the name of a list's element, which each writer chooses for itself."""
    return pa.list_(kind.value_type) if pa.types.is_list(kind) else kind


def checked(
    frame: DataFrame,
    table: str,
    dataset: DatasetConfig,
    schema: pa.Schema,
    scope: Mapping[str, str],
    parts: Sequence[str],
    vectors: Vectors | None,
    files_per_part: int,
) -> DataFrame:
    """``frame`` laid out for its files (clustered, sorted), raising at the first row that breaks a rule.

    Args:
        vectors: sizes of the space, for tables that hold tokens or FM outputs.
        files_per_part: files that one partition is spread over.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    key = _UNIQUE.get(table, [])
    clusters = [*PARTITION_COLUMNS[table], _BUCKET]
    order = [*clusters, *(key or _SORTED[table])]
    spread = F.pmod(F.xxhash64(order[len(clusters)]), F.lit(files_per_part))
    rows = frame.select(*schema.names).withColumn(_BUCKET, spread).repartition(*clusters)
    if key:
        repeat = Window.partitionBy(*order).orderBy(key[0])
        rows = rows.withColumn(_REPEAT, F.row_number().over(repeat))
    else:
        rows = rows.sortWithinPartitions(*order).withColumn(_REPEAT, F.lit(1))
    if vectors is not None and vectors.code_bytes:
        zero = F.substring("z", 1, vectors.code_bytes) == F.lit(bytes(vectors.code_bytes))
        whole = Window.partitionBy(*clusters).orderBy(*order[len(clusters) :])
        whole = whole.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
        rows = rows.withColumn(_VECTORS, F.max((~zero) & (F.length("z") > 0)).over(whole))
    problem = _first_problem(_rules(table, dataset, schema, scope, parts, vectors), key)
    return rows.where(problem.isNull()).select(*schema.names)


def failed_check(error: BaseException) -> str | None:
    """The message of the rule that made Spark's job fail; None when it failed otherwise."""
    found = _FOUND.search(str(error))
    return found[1] if found else None


Rule = tuple["Column", "Column | str"]


def _first_problem(rules: list[Rule], key: list[str]) -> Column:
    from pyspark.sql import functions as F

    chain = F.when(F.col(_REPEAT) > 1, _raise(f"the key ({', '.join(key)}) occurs twice in one partition", key))
    for broken, message in rules:
        chain = chain.when(broken, _raise(message, key))
    return chain


def _raise(message: Column | str, key: list[str]) -> Column:
    from pyspark.sql import functions as F

    text = F.lit(message) if isinstance(message, str) else message
    place = [F.concat(F.lit(f" {name}="), F.coalesce(F.col(name).cast("string"), F.lit("null"))) for name in key]
    part = F.coalesce(F.col("part"), F.lit("null"))
    return F.raise_error(F.concat(F.lit(f"{_MARK}("), text, F.lit(" at part="), part, *place, F.lit(f"){_MARK}")))


def _rules(
    table: str,
    dataset: DatasetConfig,
    schema: pa.Schema,
    scope: Mapping[str, str],
    parts: Sequence[str],
    vectors: Vectors | None,
) -> list[Rule]:
    from pyspark.sql import functions as F

    from feature_store.sources.expressions import part_column

    rules: list[Rule] = [
        (F.col(name).isNull(), f"column {name} is null") for name in [*PARTITION_COLUMNS[table], *_REQUIRED[table]]
    ]
    rules += [
        (F.col(name) != value, F.concat(F.lit(f"{name}={value} is written, but a row has {name}="), F.col(name)))
        for name, value in scope.items()
    ]
    rules.append((~F.col("part").isin(*parts), f"part lies outside {parts[0]} .. {parts[-1]}"))
    rules += [rule for field in schema for rule in _finite(field)]
    if "event_ts" in schema.names and schema.field("event_ts").type == pa.int64():
        rules.append((part_column(dataset.clock, F.col("event_ts")) != F.col("part"), "event_ts lies outside its part"))
    if vectors is not None:
        rules += _vector_rules(table, dataset, vectors)
    return rules


def _finite(field: pa.Field) -> list[Rule]:
    from pyspark.sql import functions as F

    def bad(value: Column) -> Column:
        return F.isnan(value * F.lit(0.0))  # both NaN and the infinities

    column = F.col(field.name)
    if pa.types.is_floating(field.type):
        return [(bad(column), f"column {field.name} is not finite")]
    if pa.types.is_list(field.type) and pa.types.is_floating(field.type.value_type):
        return [(F.exists(column, bad), f"column {field.name} holds a value that is not finite")]
    return []


def _vector_rules(table: str, dataset: DatasetConfig, vectors: Vectors) -> list[Rule]:
    from pyspark.sql import functions as F

    def size(name: str, per_token: int, tokens: Any) -> Rule:
        length = F.length(name) if name == "z" else F.size(name)
        unit = "bytes" if name == "z" else "values"
        return length != tokens * per_token, f"column {name} is not {per_token} {unit} a token"

    if table == "fm_outputs":
        rules = [size("z", vectors.code_bytes, F.lit(1)), size("logits", vectors.heads, F.lit(1))]
    else:
        heads, entities = len(dataset.heads), 0 if vectors.code_bytes else len(dataset.entities)
        per_token = {"event_ts": 1, "z": vectors.code_bytes, "logits": vectors.heads, "entities": entities}
        per_token |= {"labels": heads, "label_available_at": heads}
        rules = [size(name, count, F.col("n")) for name, count in per_token.items()]
    if vectors.code_bytes:
        rules.append((~F.col(_VECTORS), "column z is all zero in every row: the vectors are dead"))
    return rules
