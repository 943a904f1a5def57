"""An FM large enough for the limit of ``fm_inference``, and the bare torch loop that is that limit."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pyarrow as pa
import torch

from benchmarks.harness import BenchmarkError, Report, cores, timed
from feature_store.config import Strict
from feature_store.spaces import SpaceRecord
from models.codec import pack_tensor
from models.config import FmConfig, MlpBlock
from models.encode import FeatureEncoder
from models.fm import FmInputs
from models.fm_data import as_tensors
from models.fm_score import FmScorer
from models.fm_train import FmWithCodec
from pipelines.context import RunContext
from pipelines.fm_model import fm_files
from pipelines.specs import fm_specs

ENCODE_ROWS = 200_000


class LoopSettings(Strict):
    """How the FM is sized and its bare loop measured.

    ``widths``: candidates for the FM's hidden layers; the first is taken whose loop is expected to last
    ``sized_seconds`` over the rows. ``min_seconds``: what the loop must really take. ``batch_sizes`` are searched on
    ``search_rows`` rows.
    """

    widths: list[int]
    sized_seconds: float
    min_seconds: float
    batch_sizes: list[int]
    search_rows: int


def size_fm(context: RunContext, settings: LoopSettings, sample: pa.Table, rows: int, report: Report) -> None:
    """Set the context's FM to the narrowest candidate whose bare loop over ``rows`` rows should take long enough.

    Raises:
        BenchmarkError: even the widest is too fast on this machine.
    """
    specs, heads = fm_specs(context.dataset), context.dataset.heads
    encoder = FeatureEncoder.fit(sample, specs, context.config.fm.max_vocabulary)
    inputs = as_tensors(encoder.encode(sample.slice(0, settings.search_rows)))
    for width in settings.widths:
        fm = wide_fm(context.config.fm, width)
        model = FmWithCodec(fm, encoder, heads).eval()
        _, rate = fastest_batch(model, fm.codec.bits, inputs, settings.batch_sizes)
        report.say(f"an FM of width {width}: {rate:,.0f} rows/s in a bare loop")
        if rows / rate >= settings.sized_seconds:
            context.config = context.config.model_copy(update={"fm": fm})
            return
    raise BenchmarkError(
        f"loop.widths: the widest FM ({settings.widths[-1]}) needs less than {settings.sized_seconds} s for {rows} rows"
        " on this machine; add a wider one"
    )


def wide_fm(config: FmConfig, width: int) -> FmConfig:
    """``config`` with one dense block of this width; its first hidden layer is captured."""
    return config.model_copy(update={"blocks": {"mlp": MlpBlock(units=[width, width, width // 2])}})


def tensors_of(encoder: FeatureEncoder, rows: pa.Table) -> FmInputs:
    """All rows as tensors in memory, encoded some at a time."""
    pieces = [as_tensors(encoder.encode(rows.slice(at, ENCODE_ROWS))) for at in range(0, rows.num_rows, ENCODE_ROWS)]
    first = pieces[0]
    return FmInputs(
        torch.cat([piece.cat for piece in pieces]),
        torch.cat([piece.num for piece in pieces]),
        {name: torch.cat([piece.lists[name] for piece in pieces]) for name in first.lists},
        {name: torch.cat([piece.masks[name] for piece in pieces]) for name in first.masks},
    )


def measure_bare_loop(
    context: RunContext, space: SpaceRecord, rows: pa.Table, settings: LoopSettings, report: Report
) -> float:
    """Seconds of the bare loop of the space's FM over ``rows``, at the fastest batch size, on all cores.

    Raises:
        BenchmarkError: it is shorter than ``settings.min_seconds``: the comparison would measure overheads.
    """
    torch.set_num_threads(cores())
    scorer = FmScorer.load(fm_files(context, space), space.model_digest)
    inputs = tensors_of(scorer.encoder, rows)
    searched = head(inputs, settings.search_rows)
    size, _ = fastest_batch(scorer.model, scorer.bits, searched, settings.batch_sizes)
    with timed(report, f"bare torch loop over {rows.num_rows:,} rows, batches of {size}") as watch:
        run_loop(scorer.model, scorer.bits, inputs, size)
    if watch.seconds < settings.min_seconds:
        raise BenchmarkError(
            f"the bare loop took {watch.seconds:.1f} s, less than {settings.min_seconds} s: raise loop.sized_seconds"
        )
    report.add("bare_loop_batch", size)
    report.add("bare_loop_seconds", watch.seconds)
    return watch.seconds


def fastest_batch(model: FmWithCodec, bits: int, inputs: FmInputs, sizes: list[int]) -> tuple[int, float]:
    """(batch size, rows/s) of the fastest of ``sizes``; each is tried twice and its better time counts."""
    torch.set_num_threads(cores())
    run_loop(model, bits, head(inputs, max(sizes)), max(sizes))
    best = (0, 0.0)
    for size in sizes:
        for _ in range(2):
            start = time.perf_counter()
            run_loop(model, bits, inputs, size)
            rate = len(inputs.cat) / (time.perf_counter() - start)
            best = max(best, (size, rate), key=lambda found: found[1])
    return best


@torch.inference_mode()
def run_loop(model: FmWithCodec, bits: int, inputs: FmInputs, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What inference computes and nothing else: packed codes [N, bytes] and logits [N, H]."""
    codes, logits = [], []
    for batch in _batches(inputs, size):
        output = model.fm(batch)
        codes.append(pack_tensor(model.codec(output.captured), bits))
        logits.append(output.logits)
    return torch.cat(codes), torch.cat(logits)


def head(inputs: FmInputs, rows: int) -> FmInputs:
    """The first rows."""
    return next(_batches(inputs, rows))


def _batches(inputs: FmInputs, size: int) -> Iterator[FmInputs]:
    for at in range(0, len(inputs.cat), size):
        rows = slice(at, at + size)
        yield FmInputs(
            inputs.cat[rows],
            inputs.num[rows],
            {name: values[rows] for name, values in inputs.lists.items()},
            {name: mask[rows] for name, mask in inputs.masks.items()},
        )
