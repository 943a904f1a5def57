"""By when a partition is promised: the reference of the data Dag's deadline."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from airflow.sdk.definitions.deadline import BaseDeadlineReference

from pipelines.orchestration.partition_key import follows_clock


@dataclass(eq=False)
class PartitionClosed(BaseDeadlineReference):
    """The instant at which a scheduled run's partition closed. Runs that nobody waits for have no deadline: backfills,
    runs by hand, and scheduled ones that catch up.

    Args:
        grain_ms: of the data set.
        lag_ms: of the data set.
    """

    grain_ms: int
    lag_ms: int
    required_kwargs = frozenset({"dag_id", "run_id"})

    def serialize_reference(self) -> dict[str, Any]:
        """The fields, for the scheduler."""
        return {**super().serialize_reference(), "grain_ms": self.grain_ms, "lag_ms": self.lag_ms}

    @classmethod
    def deserialize_reference(cls, reference_data: dict[str, Any]) -> PartitionClosed:
        """The reference that ``serialize_reference`` described."""
        return cls(reference_data["grain_ms"], reference_data["lag_ms"])

    def _evaluate_with(self, *, session: Any, dag_id: str, run_id: str) -> datetime | None:
        from airflow.models import DagRun
        from sqlalchemy import select

        run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        live = follows_clock(self.grain_ms, self.lag_ms, run.run_type, run.run_after, datetime.now(UTC))
        return run.run_after if live else None
