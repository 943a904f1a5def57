"""``predict`` and ``export-histories``: what serving does, from the registry and the exported histories alone."""

from __future__ import annotations
