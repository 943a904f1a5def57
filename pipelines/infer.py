"""Step ``infer``: one FM pass per unique example, in Spark; vectors for histories and logits for distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feature_store.schemas import composing_features
from feature_store.spaces import SpaceRecord
from pipelines.context import RunContext
from pipelines.fm_declaration import inputs_context
from pipelines.step import PinnedInputs, Read, TableStep, write_table


def _definition(context: RunContext) -> Sequence[Any]:
    return (sorted(composing_features(context.dataset)),)


FM_OUTPUTS = TableStep("infer", 1, "fm_outputs", _definition)


def infer(context: RunContext, space: SpaceRecord, parts: list[str]) -> None:
    """Write fm_outputs of ``space`` for contiguous ``parts``.

    Raises:
        MissingInputError: fm_inputs of ``parts`` are missing.
        ArtifactError: the FM's file is not the one that the space names.
    """
    # Torch takes seconds and hundreds of MB to import; a plan needs the declaration above only.
    from pipelines.fm_model import fm_files
    from pipelines.infer_spark import fm_outputs_frame

    scope = {"inputs_id": space.inputs_id}
    inputs = PinnedInputs(inputs_context(context, space), [Read("fm_inputs", scope, parts)])
    model = fm_files(context, space)
    write_table(
        context,
        FM_OUTPUTS,
        {"space_id": space.space_id},
        parts,
        inputs.versions,
        lambda: fm_outputs_frame(
            context.spark, context.dataset, inputs.require("fm_inputs", scope, parts), space, model
        ),
    )
