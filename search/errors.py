"""Errors of the search layer. Each message names the parameter, setting or file and says what to do."""

from __future__ import annotations


class SearchError(Exception):
    """Root of every error that the search layer raises on purpose."""


class SpaceError(SearchError):
    """A space is impossible, holds no valid configuration, or does not fit the method used on it."""


class ConfigurationError(SearchError):
    """A configuration does not belong to its space."""


class HistoryError(SearchError):
    """A history of trials is of another space, or too small for what is asked."""


class BudgetError(SearchError):
    """A search was given nothing to spend."""


class StateError(SearchError):
    """A saved search cannot be read, or belongs to another search."""


class ProposalError(SearchError):
    """A proposer has no configuration left, or proposed one that its space does not hold."""
