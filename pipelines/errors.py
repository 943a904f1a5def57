"""Errors of the pipeline layer."""

from __future__ import annotations

ADVICE = "what to do: "
"""Starts the last line of every failure that a command prints."""


class PipelineError(Exception):
    """Root of every error that the pipeline raises on purpose."""


class ConfigError(PipelineError):
    """The YAML file is wrong; the message names file and field, what it got and what is allowed."""


class StepError(PipelineError):
    """A step cannot run, or ran into a state that it may not write over."""


class ImmatureError(StepError):
    """None of the partitions that a model would be judged on has all of its labels yet."""


class GateError(PipelineError):
    """A promotion that the gate does not allow."""


class LostProcessError(PipelineError):
    """A process that the step needs was killed: nothing was written, and another try may do better."""


class FullDiskError(PipelineError):
    """No space is left where tables or scratch files lie."""


class UnexpectedError(PipelineError):
    """An error that no rule foresaw; its traceback stands above the message."""
