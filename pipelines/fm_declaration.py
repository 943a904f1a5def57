"""What an FM reads, kept with its space: its inputs are written as its FM knows them until the space closes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import ValidationError

from feature_store.config import AsOfFeature, DatasetConfig, EventList, FeatureColumn, Name, Strict, WithinImpression
from models.config import FmConfig
from pipelines.digest import digest
from pipelines.errors import StepError

if TYPE_CHECKING:
    from feature_store.spaces import SpaceRecord
    from pipelines.context import RunContext

Declared = TypeVar("Declared", AsOfFeature, EventList)


class FmDeclaration(Strict):
    """The part of the data contract that decides what the FM's columns hold."""

    fm_features: list[str]
    as_of: list[AsOfFeature]
    event_lists: list[EventList]
    features: dict[Name, FeatureColumn]
    within_impression: WithinImpression
    entities: dict[Name, str]
    fm_clock: Literal["event", "batch"] = "event"

    @classmethod
    def of(cls, dataset: DatasetConfig) -> FmDeclaration:
        """What the FM of ``dataset`` reads."""
        wanted = set(dataset.fm_features)
        as_of = [feature for feature in dataset.as_of if feature.name in wanted]
        made = {column for feature in as_of for column in feature.columns}
        return cls(
            fm_features=dataset.fm_features,
            as_of=as_of,
            event_lists=[events for events in dataset.event_lists if events.name in wanted],
            features={name: column for name, column in dataset.features.items() if name in wanted},
            within_impression=WithinImpression(columns=[c for c in dataset.within_impression.columns if c in made]),
            entities=dataset.entities,
            fm_clock=dataset.fm_clock,
        )

    @property
    def inputs_id(self) -> str:
        """Digest that names the fm_inputs of this declaration: spaces with the same one share them."""
        names, within = self.fm_features, self.within_impression
        clock = [self.fm_clock] if self.fm_clock != "event" else []
        return "in-" + digest(names, self.as_of, self.event_lists, self.features, within, self.entities, *clock)[:8]

    def applied_to(self, dataset: DatasetConfig) -> DatasetConfig:
        """``dataset`` with this FM's inputs in place of its own; counters and keys stay those of ``dataset``."""
        # Equal ones keep the order of the YAML file, which is that of the table's columns: stored ones are sorted.
        entities = dataset.entities if dataset.entities == self.entities else self.entities
        own = {
            "fm_features": self.fm_features,
            "as_of": [*self.as_of, *_others(self.as_of, dataset.as_of)],
            "event_lists": [*self.event_lists, *_others(self.event_lists, dataset.event_lists)],
            "features": dataset.features | self.features,
            "within_impression": self.within_impression,
            "entities": entities,
            "fm_clock": self.fm_clock,
        }
        return dataset.model_copy(update=own)


def has_batch_fm(dataset: DatasetConfig, fm: FmConfig) -> bool:
    """Whether an FM under the VMs' availability stands beside this one.

    One does where it is trained here and reads as-of columns or lists at the event, of which VMs see less.
    """
    reads_past = bool(_past_columns(dataset) & set(dataset.fm_features))
    sees_more = dataset.fm_clock == "event" and not dataset.history_clock.at_once
    return fm.external is None and sees_more and reads_past


def batch_fm_dataset(dataset: DatasetConfig) -> DatasetConfig:
    """What an FM under the VMs' availability reads.

    That is as-of columns and lists over closed partitions + lag, and of the request's features those that some VM sees.
    """
    served = {name for vertical in dataset.verticals.values() for name in vertical.features}
    own = [name for name in dataset.fm_features if name in _past_columns(dataset) | served]
    return dataset.model_copy(update={"fm_clock": "batch", "fm_features": own})


def inputs_context(context: RunContext, space: SpaceRecord) -> RunContext:
    """The project with the inputs of the FM of ``space``: what reads and writes fm_inputs of that space.

    It may name columns that the YAML file no longer declares: ``require_writable`` says so before anything is written.
    """
    if space.inputs_id == context.inputs_id or not space.declaration:
        return context
    dataset = FmDeclaration.model_validate(space.declaration).applied_to(context.dataset)
    return replace(context, config=context.config.model_copy(update={"dataset": dataset}))


def older_inputs(context: RunContext, spaces: Sequence[SpaceRecord]) -> list[SpaceRecord]:
    """Those of ``spaces`` whose FM reads other inputs than the YAML file declares, the earliest of each inputs_id."""
    earliest: dict[str, SpaceRecord] = {}
    for space in sorted(spaces, key=lambda space: space.fm_train_cutoff):
        if space.inputs_id != context.inputs_id:
            earliest.setdefault(space.inputs_id, space)
    return list(earliest.values())


def require_writable(context: RunContext, space: SpaceRecord) -> None:
    """Check that the inputs of the FM of ``space`` can still be computed from what the YAML file declares.

    Raises:
        StepError: they cannot; names the space, the fields and the two ways out.
    """
    problems = _problems(context.dataset, space)
    if problems:
        raise StepError(
            f"{context.origin}: fm_inputs {space.inputs_id} of space {space.space_id} cannot be written: "
            f"{'; '.join(problems)}. Its FM reads what was declared when it was trained: declare that again beside "
            f"what is new, under another name where it changed, or hand its VMs over to a newer space and run "
            f"`loopfm close-spaces {context.origin}`"
        )


def _problems(dataset: DatasetConfig, space: SpaceRecord) -> list[str]:
    if not space.declaration:
        return ["the space was opened before spaces kept what their FM reads"]
    declared = FmDeclaration.model_validate(space.declaration)
    problems = [
        f"dataset.features.{name} was {_said(was)}, is {_said(dataset.features.get(name))}"
        for name, was in declared.features.items()
        if dataset.features.get(name) != was
    ]
    problems += [
        f"dataset.entities.{name} was {declared.entities.get(name)!r}, is {dataset.entities.get(name)!r}"
        for name in sorted({*declared.entities, *dataset.entities})
        if declared.entities.get(name) != dataset.entities.get(name)
    ]
    if problems:
        return problems
    try:
        DatasetConfig.model_validate(declared.applied_to(dataset).model_dump())
    except ValidationError as error:
        return [problem["msg"].removeprefix("Value error, ") for problem in error.errors()]
    return []


def _past_columns(dataset: DatasetConfig) -> set[str]:
    return {feature.name for feature in dataset.as_of} | {events.name for events in dataset.event_lists}


def _said(column: FeatureColumn | None) -> str:
    return "no longer declared" if column is None else f"{column.kind} {column.value!r} (known: {column.known})"


def _others(own: Sequence[Declared], declared: Sequence[Declared]) -> list[Declared]:
    names = {one.name for one in own}
    return [one for one in declared if one.name not in names]
