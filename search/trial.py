"""A trial: one configuration, and what its evaluation gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

TrialState = Literal["running", "done", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What an objective measured.

    ``ne``: what the search minimises (NE of a VM; any finite number elsewhere). ``flops``: of one example, 0 where it
    is no matter. ``curve``: ``ne`` after each epoch trained, the last epoch last. ``spent``: what the evaluation used
    up (sample-epochs for VMs). ``horizon``: epochs of the whole training, of which this is the beginning; None where it
    came to its end.
    """

    ne: float
    flops: float = 0.0
    curve: tuple[float, ...] = ()
    spent: float = 1.0
    horizon: int | None = None


def plain(outcome: Outcome) -> Outcome:
    """The outcome in Python's own numbers, which can be kept in a file.

    Raises:
        TypeError: what is no number.
        ValueError: likewise.
    """
    numbers = (outcome.ne, outcome.flops, outcome.spent, *outcome.curve)
    if any(isinstance(number, str) for number in numbers):
        raise TypeError("text")
    ne, flops, spent, *curve = map(float, numbers)
    horizon = None if outcome.horizon is None else int(outcome.horizon)
    return Outcome(ne, flops, tuple(curve), spent, horizon)


@dataclass(frozen=True)
class Trial:
    """One evaluation. ``ne`` and ``flops`` are None unless ``state`` is ``done``; ``error`` tells why it failed.

    ``share``: of a whole training that it gets at most; the other fields are those of ``Outcome``.
    """

    id: int
    config: dict[str, Any]
    state: TrialState = "running"
    ne: float | None = None
    flops: float | None = None
    curve: tuple[float, ...] = ()
    spent: float = 0.0
    error: str | None = None
    share: float = 1.0
    horizon: int | None = None

    def finished(self, outcome: Outcome) -> Trial:
        """This trial with its result."""
        return replace(self, state="done", **{**vars(outcome), "curve": tuple(outcome.curve)})

    def failed(self, error: str) -> Trial:
        """This trial with the reason of its failure."""
        return replace(self, state="failed", error=error)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "curve": list(self.curve)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trial:
        """The inverse of ``to_json``."""
        return cls(**{**data, "curve": tuple(data["curve"])})


def done(history: Sequence[Trial]) -> list[Trial]:
    """Trials with a result, in order."""
    return [trial for trial in history if trial.state == "done"]


def value(trial: Trial) -> float:
    """``ne`` of a done trial.

    Raises:
        ValueError: the trial has no result.
    """
    if trial.ne is None:
        raise ValueError(f"trial {trial.id} is {trial.state}: it has no NE")
    return trial.ne


def best(history: Sequence[Trial]) -> Trial | None:
    """The done trial of the lowest ``ne``, the earliest of equals; None where none is done."""
    return min(done(history), key=value, default=None)
