"""Adapter parts that turn any declared source into rows: read, explode, sample negatives, join, map and judge."""
