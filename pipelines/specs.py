"""Which columns a model reads, derived from the data contract."""

from __future__ import annotations

from feature_store.config import DatasetConfig
from models.config import FeatureSpec


def fm_specs(dataset: DatasetConfig) -> list[FeatureSpec]:
    """Inputs of the FM, in the order of ``fm_features``; an event list shares its entity's vocabulary."""
    lists = {event_list.name: event_list for event_list in dataset.event_lists}
    specs: list[FeatureSpec] = []
    for name in dataset.fm_features:
        if name in lists:
            entity = lists[name].entity
            shares = entity if entity in dataset.fm_features else None
            specs.append(FeatureSpec(name=name, kind="categorical_list", shares=shares))
            specs.append(FeatureSpec(name=f"{name}_age_hours", kind="numeric_list"))
        elif (columns := dataset.as_of_columns(name)) is not None:
            specs += [FeatureSpec(name=column, kind="numeric") for column in columns]
        else:
            specs.append(_request_spec(dataset, name))
    return specs


def vm_specs(dataset: DatasetConfig, vertical: str, counters: bool) -> list[FeatureSpec]:
    """Inputs of a vertical's VM: its request-time features, and its batch counters where the arm reads them."""
    settings = dataset.verticals[vertical]
    specs = [_request_spec(dataset, name) for name in settings.features]
    if counters:
        columns = [c for name in settings.counters for c in dataset.as_of_columns(name) or []]
        specs += [FeatureSpec(name=f"counter_{column}", kind="numeric") for column in columns]
    return specs


def _request_spec(dataset: DatasetConfig, name: str) -> FeatureSpec:
    if name in dataset.entities:
        return FeatureSpec(name=name, kind="categorical", entity=True)
    return FeatureSpec(name=name, kind=dataset.features[name].kind)
