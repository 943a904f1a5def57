"""A trained VM on disk: weights, settings and encoder in one folder, loadable from that alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch

from models.config import VmConfig
from models.errors import ArtifactError, SpaceMismatchError
from models.vm import VerticalModel
from models.vm_data import RAW_SPACE, HistoryKey, VmInputs
from models.vm_encoder import VmEncoder

FORMAT = 1
SETTINGS_FILE = "vm.json"
WEIGHTS_FILE = "vm.pt"


@dataclass(frozen=True)
class VmArtifact:
    """A VM with all that scoring needs; nothing of the FM."""

    config: VmConfig
    inputs: VmInputs
    encoder: VmEncoder
    model: VerticalModel

    def check_inputs(self, inputs: VmInputs) -> None:
        """Rows of ``inputs`` fit this model.

        Raises:
            SpaceMismatchError: this model reads FM tokens of another space.
        """
        reads_space = any(reader.tokens != "raw" for reader in self.config.readers)
        if reads_space and inputs.space_id != self.inputs.space_id:
            raise SpaceMismatchError(
                f"the model of vertical {self.inputs.vertical} reads space {self.inputs.space_id}, the rows are of "
                f"space {inputs.space_id}: score rows of {self.inputs.space_id}, or train a VM on {inputs.space_id}"
            )

    def check_space(self, key: HistoryKey, histories: pa.Table, aligned_from: str | None = None) -> None:
        """Histories in hand are of the space that this model reads, or of the one that a map leads from.

        Raises:
            SpaceMismatchError: names both spaces.
        """
        expected = RAW_SPACE if key[0] == "raw" else aligned_from or self.inputs.space_id
        for found in pc.unique(histories["space_id"]).to_pylist():
            if found != expected:
                raise SpaceMismatchError(
                    f"histories of key {key[1]} are of space {found}, the model of vertical {self.inputs.vertical} "
                    f"reads {expected}: export histories of {expected}"
                )


def save_vm(artifact: VmArtifact, folder: Path) -> str:
    """Write a VM to a folder (made when absent).

    Returns:
        Digest of the two files, for ``load_vm``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "format": FORMAT,
        "config": artifact.config.model_dump(mode="json"),
        "inputs": artifact.inputs.model_dump(mode="json"),
    }
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2, sort_keys=True))
    state = {"model": artifact.model.state_dict(), "encoder": artifact.encoder.to_state()}
    torch.save(state, folder / WEIGHTS_FILE)
    return vm_digest(folder)


def vm_digest(folder: Path) -> str:
    """SHA-256 over both files of a saved VM.

    Raises:
        ArtifactError: a file is missing.
    """
    digest = hashlib.sha256()
    for name in (SETTINGS_FILE, WEIGHTS_FILE):
        try:
            digest.update((folder / name).read_bytes())
        except OSError as error:
            raise ArtifactError(f"{folder / name}: cannot be read ({error.strerror}); save the VM again") from error
    return digest.hexdigest()


def load_vm(folder: Path, digest: str | None = None) -> VmArtifact:
    """Load a VM from its folder alone, weights only: nothing in it is executed; a class of a team's own is imported.

    Raises:
        ArtifactError: a file is missing, of another format, or differs from ``digest``.
    """
    found = vm_digest(folder)
    if digest is not None and found != digest:
        raise ArtifactError(f"{folder}: digest is {found}, registered is {digest}; the files changed after saving")
    settings = json.loads((folder / SETTINGS_FILE).read_text())
    if settings.get("format") != FORMAT:
        raise ArtifactError(f"{folder}: format {settings.get('format')}, this version reads {FORMAT}; train again")
    config, inputs = VmConfig.model_validate(settings["config"]), VmInputs.model_validate(settings["inputs"])
    state = torch.load(folder / WEIGHTS_FILE, map_location="cpu", weights_only=True, mmap=True)
    encoder = VmEncoder.from_state(state["encoder"])
    model = VerticalModel(config, inputs, encoder)
    model.load_state_dict(state["model"])
    return VmArtifact(config, inputs, encoder, model.eval())
