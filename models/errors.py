"""Errors of the model layer. Each message names the setting, feature or file and says what to do."""

from __future__ import annotations


class ModelsError(Exception):
    """Root of every error that the model layer raises on purpose."""


class ModelConfigError(ModelsError):
    """A model setting is impossible, or does not fit the data it is used on."""


class FeatureMismatchError(ModelsError):
    """A feature that a model needs is absent, or has another kind."""


class ArtifactError(ModelsError):
    """A saved model is missing, changed (digest) or of another format."""


class SpaceMismatchError(ModelsError):
    """A model of one space was given tokens of another."""


class TrainingProcessError(ModelsError):
    """A training process ended before it had a result; what it printed is in the message."""
