"""Registered models and the runs that made them, read from MLflow in a few calls, however many versions there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from feature_store.config import RAW_SPACE
from feature_store.ledger import Scope
from pipelines.context import RunContext
from pipelines.registry import ModelRegistry, is_absent

VERSION_TAG = "loopfm.version."
SQLITE = "sqlite:///"
RUNS_A_SEARCH = 500


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model.

    Args:
        name, version: in the registry.
        aliases: champion, challenger, rollback.
        run_id: MLflow run that made it.
        created_at: epoch ms, wall clock: for display only.
        tags: of the version (space, trained_until, gate) over those of its run (arm, windows, versions, commit).
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    run_id: str
    created_at: int
    tags: Mapping[str, str]

    def tag(self, name: str) -> str | None:
        """Tag ``loopfm.NAME``; None where it was never set."""
        return self.tags.get(f"loopfm.{name}")

    def window(self, name: str) -> tuple[str, str] | None:
        """First and last partition of the window ``train`` or ``validation``; None where it was not recorded."""
        first, _, last = (self.tag(name) or "").partition("..")
        return (first, last) if last else None

    @property
    def table_versions(self) -> dict[str, int]:
        """Name of what was read -> its Delta version; ``raw_histories`` are the histories of space raw."""
        found = {k.removeprefix(VERSION_TAG): v for k, v in self.tags.items() if k.startswith(VERSION_TAG)}
        return {table: int(version) for table, version in sorted(found.items())}


class ModelBook:
    """Versions of a project's registered models, the newest first; none where nothing was ever registered."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._registry = context.registry

    def fm(self) -> list[ModelVersion]:
        """Versions of the project's FM."""
        return self._versions(self._context.fm_name, None)

    def vm(self, vertical: str, newest: int | None = None) -> list[ModelVersion]:
        """Versions of one vertical's VM: all, or the ``newest`` ones and those that carry an alias."""
        return self._versions(self._context.vm_name(vertical), newest)

    def _versions(self, name: str, newest: int | None) -> list[ModelVersion]:
        from mlflow.exceptions import MlflowException

        if not has_models(self._registry):
            return []
        client = self._registry.client
        try:
            aliases = dict(client.get_registered_model(name).aliases)
        except MlflowException as error:
            if not is_absent(error):
                raise
            return []
        found = sorted(client.search_model_versions(f"name = '{name}'"), key=lambda v: int(v.version), reverse=True)
        named = {str(version) for version in aliases.values()}
        found = [v for place, v in enumerate(found) if newest is None or place < newest or str(v.version) in named]
        tags = self._run_tags([str(version.run_id) for version in found])
        return [
            ModelVersion(
                name=name,
                version=str(version.version),
                aliases=tuple(sorted(alias for alias, of in aliases.items() if str(of) == str(version.version))),
                run_id=str(version.run_id),
                created_at=int(version.creation_timestamp),
                tags={**tags.get(str(version.run_id), {}), **(version.tags or {})},
            )
            for version in found
        ]

    def _run_tags(self, run_ids: list[str]) -> dict[str, dict[str, str]]:
        """Run id -> tags: one search for many runs in place of one call a run."""
        client = self._registry.client
        experiment = client.get_experiment_by_name(self._registry.experiment)
        found: dict[str, dict[str, str]] = {}
        if experiment is None:
            return found
        for start in range(0, len(run_ids), RUNS_A_SEARCH):
            wanted = ", ".join(f"'{run_id}'" for run_id in run_ids[start : start + RUNS_A_SEARCH])
            query = f"attributes.run_id IN ({wanted})"
            runs = client.search_runs([experiment.experiment_id], query, max_results=RUNS_A_SEARCH)
            found |= {run.info.run_id: dict(run.data.tags) for run in runs}
        return found


def has_models(registry: ModelRegistry) -> bool:
    """False for a local store that was never made: looking must not make it."""
    uri = registry.tracking_uri
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).exists()


def table_scope(name: str, version: ModelVersion, inputs_id: str | None) -> tuple[str, Scope]:
    """Table and scope of a name in ``table_versions``."""
    if name == "raw_histories":
        return "histories", {"space_id": RAW_SPACE}
    if name in ("features", "histories"):
        return name, {"space_id": version.tag("space") or ""}
    return name, {"inputs_id": inputs_id} if name == "fm_inputs" and inputs_id else {}
