"""Latency of a VM on one core, with and without histories: one request, and a batch of requests.

A *request* goes from rows, as a caller gives them, to chances, over a snapshot of histories that a ``VmServer`` holds;
*network* is the same without turning rows to tensors. Every row of a batch reads histories of its own, each of full
length. Weights are untrained: what they are costs nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field

from benchmarks.harness import Report, at_most, benchmark
from benchmarks.projects import ProjectSettings
from benchmarks.vm_requests import Requests, make_requests
from feature_store.config import Strict
from models.config import VmConfig
from models.vm import VerticalModel
from models.vm_artifact import VmArtifact
from models.vm_serving import VmServer

TARGET = 2.0


class LatencySettings(Strict):
    """``batches``: rows of a batch -> how often it is timed; ``warm_up`` untimed ones come first."""

    project: ProjectSettings
    vertical: str
    length: int = Field(ge=1, description="tokens of every history")
    batches: dict[int, int] = Field(min_length=1)
    warm_up: int = Field(ge=0)
    seed: int = 0


SETTINGS = LatencySettings


def body(settings: LatencySettings, report: Report) -> None:
    """Time the recipe and the same VM without readers, turn by turn, at every size."""
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    config = settings.project.load()
    recipe = config.vm.arm(config.vm.scheduled_arm)
    report.add("threads", torch.get_num_threads())
    report.add("tokens_per_history", settings.length)
    report.add("histories_per_row", len({key for reader in recipe.readers for key in reader.keys}))
    for size, repeats in settings.batches.items():
        made = make_requests(config, settings.vertical, size, settings.length, settings.seed)
        with_histories = _vm(recipe, made, settings.seed)
        without = _vm(recipe.model_copy(update={"readers": []}), made, settings.seed)
        for part, calls in (
            ("request", [_request(vm, made) for vm in (with_histories, without)]),
            ("network", [_network(vm, made) for vm in (with_histories, without)]),
        ):
            found = dict(zip(("recipe", "plain"), _timed(calls, repeats, settings.warm_up), strict=True))
            for name, milliseconds in found.items():
                for quantile in (50, 99):
                    value = float(np.percentile(milliseconds, quantile))
                    report.add(f"{part}_{name}_{size}_p{quantile}_ms", value)
            ratio = float(np.median(found["recipe"]) / np.median(found["plain"]))
            report.add(f"{part}_{size}_recipe_over_plain", ratio, at_most(TARGET) if part == "request" else None)


def _vm(config: VmConfig, made: Requests, seed: int) -> VmServer:
    torch.manual_seed(seed)
    model = VerticalModel(config, made.inputs, made.encoder)
    return VmServer(VmArtifact(config, made.inputs, made.encoder, model), made.histories)


def _request(vm: VmServer, made: Requests) -> Callable[[], object]:
    return lambda: vm.score(made.rows)


def _network(vm: VmServer, made: Requests) -> Callable[[], object]:
    batch = vm.batch(made.rows)
    return lambda: vm.chances(batch)


def _timed(calls: list[Callable[[], object]], repeats: int, warm_up: int) -> list[list[float]]:
    """Milliseconds of each call, taken in turns so that whatever else the machine does falls on all alike."""
    taken: list[list[float]] = [[] for _ in calls]
    for turn in range(warm_up + repeats):
        for place, call in enumerate(calls):
            start = time.perf_counter()
            call()
            if turn >= warm_up:
                taken[place].append(1_000 * (time.perf_counter() - start))
    return taken


if __name__ == "__main__":
    sys.exit(benchmark("vm_latency", SETTINGS, body))
