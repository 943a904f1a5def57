"""The feed of the vertical models: against tensors in memory, and the whole trainer against FuxiCTR's.

1. The VM of conf/ebnerd.yaml with two keys of 50 tokens, the feed holding at most a quarter of the rows: samples/s
   over epochs 2 and 3 from Delta / of the same training steps on batches that lie ready in memory.
2. DeepFM without histories, from Delta by our trainer / by FuxiCTR's own trainer and loader on the same rows.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.feeds import ReadyFeed, TimedFeed
from benchmarks.harness import BenchmarkError, MissingDataError, Report, at_least, at_most, benchmark, cores, timed
from benchmarks.loop_steps import FmWindows, open_space, span, write_loop, write_sources, write_tokens
from benchmarks.peers.environment import LICENCE, peer_python, run_peer
from benchmarks.projects import ProjectSettings, stop_spark, workspace
from feature_store.config import Strict
from feature_store.spaces import SpaceRecord
from models.config import VmConfig
from models.embedding import EMBEDDING_STD
from models.feed import FeatureFeed
from models.metrics import entropy
from models.vm_data import VmInputs
from models.vm_train import train_vm
from pipelines.context import RunContext
from pipelines.vm_rows import PinnedRows, feed, pin_rows, vm_inputs

FEED_TARGET = 0.80
HELD_SHARE = 4
PEER_TARGET = 2.0
PEER_SHARE = 0.9
NE_TOLERANCE = 0.001
LABEL = "label"

Feed = TypeVar("Feed", bound=TimedFeed)


class PeerSettings(Strict):
    """``loaders``: FuxiCTR's (format, workers); its fastest counts. ``seeds``: validation NE is their mean."""

    loaders: list[tuple[str, int]]
    epochs: int
    seeds: int
    learning_rate: float


class FeedSettings(Strict):
    """Windows: tokens from ``first_tokens``; VM training ``train`` (first, last) and validation of ``vertical``."""

    project: ProjectSettings
    fm: FmWindows
    first_tokens: str
    train: tuple[str, str]
    validation: tuple[str, str]
    vertical: str
    epochs: int
    peer: PeerSettings


SETTINGS = FeedSettings


class Windows:
    """Feeds over the windows of one vertical."""

    def __init__(self, context: RunContext, settings: FeedSettings, space: SpaceRecord) -> None:
        self.context, self.vertical = context, settings.vertical
        self.train, self.validation = span(context, *settings.train), span(context, *settings.validation)
        self.pinned: PinnedRows = pin_rows(context, space, self.train + self.validation)
        self.inputs: VmInputs = vm_inputs(context, settings.vertical, space)
        self.known_at = context.dataset.clock.end(self.validation[-1])

    def plain(self, config: VmConfig, parts: list[str]) -> FeatureFeed:
        """A feed as the pipeline makes it."""
        return feed(self.context, self.vertical, config, self.pinned, parts, self.known_at)

    def of(self, kind: type[Feed], config: VmConfig, **settings: Any) -> Feed:
        """A feed of another class over the training window."""
        plain = self.plain(config, self.train)
        return kind(plain.files, plain.inputs, config, known_at=self.known_at, **settings)


def body(settings: FeedSettings, report: Report) -> None:
    """Write the tables, stop Spark, then measure both parts."""
    torch.set_num_threads(cores())
    with workspace(settings.project.load(), report) as context:
        windows = prepare(context, settings, report)
        measure_feed(windows, settings, report)
        try:
            measure_peer(windows, settings, report)
        except MissingDataError as reason:
            report.say(f"SKIPPED the comparison with FuxiCTR: {reason}. This is no evidence.")


def prepare(context: RunContext, settings: FeedSettings, report: Report) -> Windows:
    """Run the loop over the world's partitions, up to features."""
    with timed(report, "tables"):
        write_sources(context, span(context, settings.fm.train, settings.validation[1]))
        space = open_space(context, settings.fm)
        clock = context.dataset.clock
        rows = span(context, settings.train[0], settings.validation[1])
        write_tokens(context, space, clock.between(settings.first_tokens, clock.next(rows[0], -1)))
        write_loop(context, space, rows)
        stop_spark(context)
        return Windows(context, settings, space)


def measure_feed(windows: Windows, settings: FeedSettings, report: Report) -> None:
    """Part 1."""
    arm = windows.context.config.vm.arm("loopfm")
    config = arm.model_copy(update={"train": _epochs(arm, settings.epochs)})
    rows = windows.plain(config, windows.train).rows
    delta = windows.of(TimedFeed, config, buffer_rows=rows // HELD_SHARE)
    memory = windows.of(ReadyFeed, config, buffer_rows=rows, batch_size=config.train.batch_size)
    for label, source in (("from Delta", delta), ("from memory", memory)):
        with timed(report, f"{settings.epochs} epochs {label}"):
            train_vm(config, windows.inputs, source, windows.plain(config, windows.validation))
    report.add("rows", rows)
    report.add("tokens_per_history", tokens_per_history(windows, config))
    report.add("delta_samples_per_second", delta.rows_per_second(1))
    report.add("memory_samples_per_second", memory.rows_per_second(1))
    report.add("delta_over_memory", delta.rows_per_second(1) / memory.rows_per_second(1), at_least(FEED_TARGET))


def tokens_per_history(windows: Windows, config: VmConfig) -> float:
    """Mean tokens of the histories that an example reads, over both keys."""
    source = windows.plain(config, windows.train)
    encoder, _ = source.fit_encoder()
    batch = next(source.batches(encoder, 8192, 0))
    return float(np.mean([history.lengths(None).double().mean().item() for history in batch.histories.values()]))


def measure_peer(windows: Windows, settings: FeedSettings, report: Report) -> None:
    """Part 2."""
    base = windows.context.config.vm.base
    train = _epochs(base, settings.peer.epochs).model_copy(
        update={"learning_rate": settings.peer.learning_rate, "learning_rate_decay": 1.0}
    )
    plain = {"architecture": "deepfm", "readers": [], "dropout": 0.0, "unseen_rate": 0.0, "train": train}
    config = base.model_copy(update=plain)
    python = peer_python()
    with tempfile.TemporaryDirectory() as folder:
        task = write_rows(windows, config, Path(folder)) | {"epochs": settings.peer.epochs}
        ours, our_ne = our_deepfm(windows, config, settings.peer.seeds, report)
        theirs, target, their_ne = fuxictr_deepfm(python, task, settings.peer, report)
    report.say(f"FuxiCTR is licensed under {LICENCE}")
    report.add("loopfm_samples_per_second", ours)
    report.add("loopfm_validation_ne", our_ne)
    report.add("fuxictr_validation_ne", their_ne)
    report.add("validation_ne_difference", abs(our_ne - their_ne), at_most(NE_TOLERANCE))
    report.add("loopfm_over_fuxictr", ours / theirs, at_least(target))


def our_deepfm(windows: Windows, config: VmConfig, seeds: int, report: Report) -> tuple[float, float]:
    """Samples/s over all epochs but the first, and best validation NE, means over the seeds."""
    rates, found = [], []
    for seed in range(seeds):
        source = windows.of(TimedFeed, config)
        with timed(report, f"DeepFM from Delta, seed {seed}"):
            result = train_vm(config, windows.inputs, source, windows.plain(config, windows.validation), seed=seed)
        rates.append(source.rows_per_second(1))
        found.append(min(record.validation_ne for record in result.curve))
    return float(np.mean(rates)), float(np.mean(found))


def fuxictr_deepfm(
    python: Path, task: dict[str, Any], settings: PeerSettings, report: Report
) -> tuple[float, float, float]:
    """Samples/s of FuxiCTR's fastest loader, the target that its own share s of training steps sets, and its NE."""
    best: dict[str, Any] = {}
    for loader, workers in settings.loaders:
        try:
            with timed(report, f"FuxiCTR, {loader} loader, {workers} workers"):
                result = run_peer(python, {**task, "loader": loader, "workers": workers, "seed": 0})
        except BenchmarkError as error:
            report.say(f"left out: {error}")
            continue
        epoch = float(np.mean(result["epoch_seconds"][1:]))
        report.add(f"fuxictr_{loader}_{workers}_samples_per_second", result["rows"] / epoch)
        if not best or epoch < best["epoch"]:
            best = {**result, "epoch": epoch, "loader": loader, "workers": workers}
    if not best:
        raise BenchmarkError("none of FuxiCTR's loaders ran")
    found = [min(best["valid_logloss"])]
    for seed in range(1, settings.seeds):
        asked = {**task, "loader": best["loader"], "workers": best["workers"], "seed": seed}
        found.append(min(run_peer(python, asked)["valid_logloss"]))
    share = best["memory_seconds"] / best["epoch"]
    report.add("fuxictr_steps_share", share)
    target = min(PEER_TARGET, PEER_SHARE / share)
    return best["rows"] / best["epoch"], target, float(np.mean(found)) / float(task["valid_entropy"])


def write_rows(windows: Windows, config: VmConfig, folder: Path) -> dict[str, Any]:
    """Write the encoded rows of both windows for the peer; returns the task, whose settings are those of ``config``.

    Raises:
        BenchmarkError: the VM reads features that are no ids.
    """
    train, validation = (windows.plain(config, parts) for parts in (windows.train, windows.validation))
    encoder, base_rate = train.fit_encoder()
    features = encoder.features
    if features.numeric or features.list_features:
        raise BenchmarkError("the comparison with FuxiCTR is over categorical features only: change dataset.verticals")
    rate = 0.0
    for name, source in (("train", train), ("valid", validation)):
        batches = list(source.batches(encoder, 65_536))
        ids = torch.cat([batch.cat for batch in batches]).numpy()
        label = torch.cat([batch.label for batch in batches]).numpy().astype(np.int64)
        columns = {feature: ids[:, place] for place, feature in enumerate(features.categorical)} | {LABEL: label}
        np.savez(folder / f"{name}.npz", **columns)  # type: ignore[arg-type]
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
        rate = float(label.mean())
    return {
        "folder": str(folder),
        "features": {name: features.vocabularies[features.vocabulary_name(name)].rows for name in features.categorical},
        "label": LABEL,
        "batch_size": config.train.batch_size,
        "embedding_dim": config.embedding_dim,
        "embedding_std": EMBEDDING_STD,
        "base_rate": base_rate,
        "hidden_units": config.units,
        "learning_rate": config.train.learning_rate,
        "threads": cores(),
        "valid_entropy": float(entropy(rate)),
    }


def _epochs(config: VmConfig, epochs: int) -> Any:
    return config.train.model_copy(update={"epochs": epochs, "patience": epochs})


if __name__ == "__main__":
    sys.exit(benchmark("vm_feed", SETTINGS, body))
