"""Errors of the feature store. Each message names the file, field or table and says what to do."""

from __future__ import annotations


class FeatureStoreError(Exception):
    """Root of every error that the feature store raises on purpose."""


class ContractError(FeatureStoreError):
    """A setting of a data set is wrong or does not fit its source."""


class SparkStartError(ContractError):
    """Spark did not start: a setting is wrong, or its JVM was killed meanwhile."""


class BadDataError(FeatureStoreError):
    """Source rows or files that may not be written: changed types, too many rejects."""


class MissingInputError(FeatureStoreError):
    """A step needs a partition of a table that the ledger does not name as done."""


class SupersededError(FeatureStoreError):
    """A newer attempt, or newer input versions, took over: this one must not commit."""


class MixedSpacesError(FeatureStoreError):
    """Vectors of two spaces would meet."""


class ValidationError(FeatureStoreError):
    """Rows about to be committed break a table's rules (type, length, finiteness, keys, bounds)."""


class JarsError(FeatureStoreError):
    """Delta's jars are not cached and cannot be resolved."""


class CommitLockError(FeatureStoreError):
    """The lock around commits cannot be taken, or was lost while a commit ran."""
