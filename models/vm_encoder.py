"""Ids and numbers of a VM: its features' encoder, and vocabularies of entities that only raw tokens hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.encode import FeatureEncoder
from models.vocabulary import Vocabulary

Ints = npt.NDArray[np.int64]


class VmEncoder:
    """Fitted on the training window.

    Args:
        features: encoder of the VM's features.
        entities: vocabularies of token entities that are no categorical feature of the VM.
    """

    def __init__(self, features: FeatureEncoder, entities: dict[str, Vocabulary]) -> None:
        self.features = features
        self.entities = entities

    def table(self, entity: str) -> str:
        """Name of the embedding rows of a token's entity: those of the VM's feature where it is one."""
        own = entity in self.features.categorical
        return self.features.vocabulary_name(entity) if own else f"entity_{entity}"

    @property
    def tables(self) -> dict[str, int]:
        """Rows of each vocabulary, in the order of the embedding table."""
        own = {name: vocabulary.rows for name, vocabulary in self.features.vocabularies.items()}
        return own | {f"entity_{name}": vocabulary.rows for name, vocabulary in self.entities.items()}

    def entity_rows(self, ids: Ints, names: list[str]) -> Ints:
        """Rows of token entities, each within its own vocabulary: ids [T, E] -> [T, E]."""
        columns = [self._vocabulary(name).lookup(ids[:, place]) for place, name in enumerate(names)]
        return np.stack(columns, axis=1)

    def _vocabulary(self, entity: str) -> Vocabulary:
        if entity in self.entities:
            return self.entities[entity]
        return self.features.vocabularies[self.features.vocabulary_name(entity)]

    def to_state(self) -> dict[str, Any]:
        """Plain tensors and numbers: loadable with ``torch.load(weights_only=True)``."""
        entities = {name: torch.from_numpy(v.ids.copy()) for name, v in self.entities.items()}
        return {"features": self.features.to_state(), "entities": entities}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> VmEncoder:
        """The inverse of ``to_state``."""
        entities = {name: Vocabulary(ids.numpy()) for name, ids in state["entities"].items()}
        return cls(FeatureEncoder.from_state(state["features"]), entities)
