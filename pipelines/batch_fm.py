"""The FM under the VMs' availability: as large, trained on the same partitions, its past seen only as a batch sees it.

What it gains is what a batch could carry at all; transfer ratios stand against it too (method section 6). It opens no
space and nothing reads its vectors.

It trains on the window of the FM that it stands beside, and on no later rows up to the VM's own: the two then differ in
what they may see of the past alone, so that the ratio tells what lateness takes. On all rows before the test it would
also be newer and have more data, a rival of the VM instead of a part of the FM's gain. So it bounds no VM: one that
trains on later rows may gain more than it does.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from feature_store.commits import Pin, contents
from feature_store.spaces import SpaceRecord
from models.config import FmConfig
from models.fm_score import FmScorer
from models.fm_train import train_fm
from models.metrics import Scores
from models.trainer import EpochRecord
from pipelines.context import RunContext
from pipelines.digest import digest, training_code
from pipelines.fm_declaration import batch_fm_dataset, has_batch_fm, inputs_context, require_writable
from pipelines.fm_inputs import write_fm_inputs
from pipelines.fm_model import log_training, model_file, trained_settings
from pipelines.plan import inputs_targets
from pipelines.progress import timed
from pipelines.reopen import runs_of
from pipelines.scoring import by_logits
from pipelines.specs import fm_specs
from pipelines.train_fm import fm_rows
from pipelines.write_range import Call

BATCH_FM_KIND = "batch-fm"
MODEL_DIGEST_TAG = "loopfm.model_digest"
STEP_VERSION = 2
KEPT_PASSES = 8
"""At least the seeds of a comparison: the next vertical asks for the same ones."""


def batch_fm_scores(
    context: RunContext, vertical: str, spaces: Mapping[int, SpaceRecord], parts: list[str], likes: Sequence[Scores]
) -> list[Scores]:
    """Scores by the FM under the VMs' availability, by seed; empty unless one stands beside the FM of every seed.

    Args:
        context: the project.
        vertical: whose head.
        spaces: seed -> space of the FM that it is compared with.
        parts: ascending partitions of the rows.
        likes: the rows, by example id, of each seed in order.
    """
    found = [(seed, BatchFm.beside(context, space)) for seed, space in sorted(spaces.items())]
    beside = [(seed, one) for seed, one in found if one is not None]
    if len(beside) < len(found):
        return []
    return [one.scores(vertical, parts, like, seed) for (seed, one), like in zip(beside, likes, strict=True)]


@dataclass(frozen=True)
class BatchFm:
    """The FM under the VMs' availability that stands beside the FM of one space.

    Args:
        context: the project with what it reads and its size in place of what the YAML file declares.
        space: of the FM that it is compared with: it trains and stops early on the same partitions.
        train: partitions that it trains on.
        validation: partitions that it stops early on.
    """

    context: RunContext
    space: SpaceRecord
    train: list[str]
    validation: list[str]

    @classmethod
    def beside(cls, context: RunContext, space: SpaceRecord) -> BatchFm | None:
        """The one beside the FM of ``space``, as that FM was declared and trained; None where ``has_batch_fm`` is not.

        What the YAML file says by now does not matter: the two are to be of one size and to read the same.

        Raises:
            StepError: the FM of the space reads what the YAML file no longer declares.
        """
        declared = inputs_context(context, space)
        settings = trained_settings(context, space)
        if not has_batch_fm(declared.dataset, settings):
            return None
        if space.inputs_id != context.inputs_id:
            require_writable(context, space)
        changed = {"dataset": batch_fm_dataset(declared.dataset), "fm": settings}
        tags = context.registry.run_tags(space.run_id)
        windows = [
            context.dataset.clock.between(*tags[f"loopfm.{name}"].split("..")) for name in ("train", "validation")
        ]
        return cls(replace(declared, config=declared.config.model_copy(update=changed)), space, *windows)

    def scores(self, vertical: str, parts: list[str], like: Scores, seed: int) -> Scores:
        """Scores of the rows of ``like``, by the model of this seed, trained where it is not yet.

        Args:
            vertical: whose head.
            parts: ascending partitions of the rows; those between that hold none of them are ingested too.
            like: the rows, by example id.
            seed: of weights and order.
        """
        own = self.context
        for run in (*runs_of(own, self.train + self.validation), own.dataset.clock.between(parts[0], parts[-1])):
            self._write_inputs(run)
        run_id = self._trained(seed)
        recorded = own.registry.run_tags(run_id)[MODEL_DIGEST_TAG]
        pin = self._pin_inputs(parts)
        scored = _scored(_Pass(recorded, own.store.root, own.inputs_id, pin.content, tuple(parts), own, run_id, pin))
        return by_logits(like, scored.example_id, scored.logits[:, scored.heads.index(vertical)])

    def _write_inputs(self, parts: list[str]) -> None:
        # Partial sums would pay only if it were written day by day.
        call = Call((inputs_targets(self.context)[0],), parts, lambda p: write_fm_inputs(self.context, p))
        if needed := call.needed(self.context):
            call.step(needed)

    def _pin_inputs(self, parts: list[str]) -> Pin:
        return self.context.pin("fm_inputs", {"inputs_id": self.context.inputs_id}, parts)

    def _trained(self, seed: int) -> str:
        """The MLflow run of this seed."""
        own, parts = self.context, self.train + self.validation
        fresh = {"train": own.config.fm.train.model_copy(update={"seed": seed}), "warm_start": False, "snapshots": 1}
        config = own.config.fm.model_copy(update=fresh)
        versions = {"fm_inputs": self._pin_inputs(parts), "labels": own.pin("labels", {}, parts)}
        made_from = (own.store.identity("fm_inputs"), self.train, self.validation, contents(versions))
        code = training_code(config.codec.own_parts)
        idempotency = digest(BATCH_FM_KIND, STEP_VERSION, code, config, own.inputs_id, self.space.heads, *made_from)
        finished = own.registry.finished_run(idempotency)
        return self._train(config, versions, idempotency) if finished is None else str(finished.info.run_id)

    def _train(self, config: FmConfig, versions: Mapping[str, Pin], idempotency: str) -> str:
        """Train within an MLflow run of its own; returns its id."""
        own, seed = self.context, config.train.seed
        folder = own.scratch / BATCH_FM_KIND / idempotency

        def report(record: EpochRecord) -> None:
            own.progress(f"evaluate: epoch {record.epoch + 1}, validation NE {record.validation_ne:.4f}")

        with own.registry.run(f"FM on batch features, seed {seed}", idempotency, self._tags(seed, versions)) as run_id:
            with timed(own.progress, f"evaluate: an FM of the same size on batch features, seed {seed}"):
                windows = (self.train, self.validation)
                rows = [fm_rows(own, versions, window, self.validation[-1]) for window in windows]
                specs = fm_specs(own.dataset)
                result = train_fm(config, specs, self.space.heads, rows[0], rows[1], folder, report, resume=True)
            log_training(own, run_id, config, result, folder)
            own.registry.client.set_tag(run_id, MODEL_DIGEST_TAG, result.digest)
            shutil.rmtree(folder)
        return run_id

    def _tags(self, seed: int, versions: Mapping[str, Pin]) -> dict[str, str]:
        own = self.context
        tags = {"loopfm.kind": BATCH_FM_KIND, "loopfm.commit": own.commit, "loopfm.seed": str(seed)}
        tags |= {"loopfm.config": digest(own.config), "loopfm.compared_space": self.space.space_id}
        tags |= {"loopfm.train": f"{self.train[0]}..{self.train[-1]}"}
        tags |= {"loopfm.validation": f"{self.validation[0]}..{self.validation[-1]}"}
        return tags | {f"loopfm.version.{table}": str(version) for table, version in versions.items()}


@dataclass(frozen=True)
class _Pass:
    """A model's pass over partitions, known by all that its logits depend on: verticals of a run share it."""

    model_digest: str
    root: str
    inputs_id: str
    content: int
    parts: tuple[str, ...]
    context: RunContext = field(compare=False)
    run_id: str = field(compare=False)
    pin: Pin = field(compare=False)


@dataclass(frozen=True)
class _Scored:
    """Logits [N, heads] of examples [N]."""

    example_id: npt.NDArray[np.int64]
    heads: list[str]
    logits: npt.NDArray[np.float32]


@lru_cache(maxsize=KEPT_PASSES)
def _scored(one: _Pass) -> _Scored:
    own, parts = one.context, list(one.parts)
    scorer = FmScorer.load(model_file(own, one.run_id, one.model_digest), one.model_digest)
    inputs = own.store.arrow("fm_inputs", one.pin, {"inputs_id": one.inputs_id}, parts)
    _, logits = scorer.score(inputs)
    return _Scored(inputs["example_id"].to_numpy(), scorer.heads, logits)
