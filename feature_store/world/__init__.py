"""The generated world: a data set of any size whose true chances are known."""

from feature_store.world.truth import world_truth

__all__ = ["world_truth"]
