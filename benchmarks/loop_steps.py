"""Steps of the loop that several benchmarks put together."""

from __future__ import annotations

from feature_store.config import Strict
from feature_store.spaces import SpaceRecord
from pipelines.context import RunContext
from pipelines.features import features
from pipelines.fm_inputs import fm_inputs
from pipelines.infer import infer
from pipelines.ingest import ingest
from pipelines.segments import segments
from pipelines.train_fm import train_fm


class FmWindows(Strict):
    """Partitions (or whole days) that the FM trains and validates on; small: benchmarks do not ask how good it is."""

    train: str
    validation: str


def span(context: RunContext, first: str, last: str | None = None) -> list[str]:
    """Partitions from ``first`` to ``last`` (default: ``first``); whole days stand for all of theirs."""
    clock = context.dataset.clock
    return clock.between(*clock.span(first, last or first))


def write_sources(context: RunContext, parts: list[str]) -> None:
    """Examples, labels, FM inputs and raw segments of contiguous ``parts``."""
    ingest(context, parts)
    fm_inputs(context, parts)
    segments(context, None, parts)


def open_space(context: RunContext, windows: FmWindows) -> SpaceRecord:
    """Train the FM on its windows, whose sources are written, and open its space."""
    return train_fm(context, span(context, windows.train), span(context, windows.validation))


def write_tokens(context: RunContext, space: SpaceRecord, parts: list[str]) -> None:
    """FM outputs and segments of the space for contiguous ``parts``."""
    infer(context, space, parts)
    segments(context, space, parts)


def write_loop(context: RunContext, space: SpaceRecord, parts: list[str]) -> None:
    """Everything from infer to features, raw histories included, for contiguous ``parts`` whose sources are written."""
    write_tokens(context, space, parts)
    features(context, space, parts)
