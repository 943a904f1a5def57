"""Errors of active search."""

from __future__ import annotations

from search.errors import SearchError


class PoolError(SearchError):
    """The pool, its weights, an observation of it or a query are impossible."""
