"""The windows of a backtest, in event-time order: FM first, then VMs, then the test."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from feature_store.clocks import HOUR_MS
from pipelines.config import ProjectConfig
from pipelines.context import RunContext
from pipelines.errors import ConfigError

DAY_TEXT = len("2023-05-25")


@dataclass(frozen=True)
class RunWindows:
    """Partitions of each window, in order, without gaps; together they are the run's range."""

    fm_train: list[str]
    fm_validation: list[str]
    warm_up: list[str]
    vm_train: list[str]
    vm_validation: list[str]
    test: list[str]
    label_wait: list[str] = field(default_factory=list)

    @property
    def parts(self) -> list[str]:
        """All partitions of the run."""
        return [part for window in fields(self) for part in getattr(self, window.name)]

    @property
    def fm(self) -> list[str]:
        """Partitions that the FM trains or validates on."""
        return self.fm_train + self.fm_validation

    @property
    def outputs(self) -> list[str]:
        """Partitions that get FM outputs: all after the FM's own windows."""
        return self.warm_up + self.vm

    @property
    def vm(self) -> list[str]:
        """Partitions that a VM trains, validates or is tested on."""
        return self.vm_train + self.vm_validation + self.test


def run_range(context: RunContext, first: str | None = None, last: str | None = None) -> tuple[str, str]:
    """First and last partition or day of a run: those given, else the project's ``range``, else the source's own days.

    Raises:
        ConfigError: the source holds no row with an event time.
    """
    declared = context.config.range
    first = first or (declared.first if declared else None)
    last = last or (declared.last if declared else None)
    if first is None or last is None:
        from feature_store.ingest import source_parts

        found = source_parts(context.spark, context.dataset)
        if found is None:
            raise ConfigError(f"{context.origin}: the source holds no row with an event time; give --from and --to")
        first, last = first or found[0][:DAY_TEXT], last or found[1][:DAY_TEXT]
    return first, last


def run_windows(config: ProjectConfig, first: str, last: str) -> RunWindows:
    """Split the range ``first`` .. ``last`` by the lengths in ``windows``; what is left over warms up histories.

    Raises:
        ConfigError: the range is shorter than the windows, or a window is no whole number of partitions.
    """
    clock = config.dataset.clock
    parts = clock.between(*clock.span(first, last))
    lengths = {}
    for name, length in config.windows.model_dump().items():
        if length % clock.grain_ms:
            raise ConfigError(
                f"windows.{name}: got {length} ms; allowed: a multiple of the grain ({clock.grain_ms} ms)"
            )
        lengths[name] = length // clock.grain_ms
    spare = len(parts) - sum(lengths.values())
    if spare < 0:
        hours = sum(config.windows.model_dump().values()) // HOUR_MS
        raise ConfigError(
            f"range {parts[0]} .. {parts[-1]} holds {len(parts)} partitions, the windows need {sum(lengths.values())} "
            f"({hours} h): widen --from / --to or shorten the windows"
        )
    lengths["warm_up"] += spare
    windows: dict[str, list[str]] = {}
    for window in fields(RunWindows):
        windows[window.name], parts = parts[: lengths[window.name]], parts[lengths[window.name] :]
    return RunWindows(**windows)
