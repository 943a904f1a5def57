"""A report's content made from fixed scores, through the same code that measures a run."""

import numpy as np

from models.metrics import Scores
from pipelines.measure import Comparison, Figure
from pipelines.report_data import PART_SLICE, PartRow, ReportData, VerticalReport, Window, calibration_figures

STRENGTH = {
    **{"base": 0.3, "raw": 0.5, "control": 0.6, "loopfm": 0.8, "loopfm_kd": 0.85, "fm": 1.0, "batch_fm": 0.9},
    **{"world_state": 0.95, "world_p": 1.2},
}
PARTS = ["2026-01-09", "2026-01-10", "2026-01-11"]


def scores(strength: float, rows: int = 3000, sampling_rate: float = 1.0, seed: int = 0) -> Scores:
    """Scores that know ``strength`` of the rows' true logit; equal labels for every strength."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=rows)
    label = (rng.random(rows) < 1 / (1 + np.exp(1.5 - 1.2 * signal))).astype(np.float64)
    rate = np.where(label > 0, 1.0, sampling_rate)
    with_history = {} if strength < 0.5 else {"fm_item": np.arange(rows) % 10 < 9, "raw_user": np.arange(rows) % 2 == 0}
    return Scores(
        example_id=np.arange(rows),
        user=np.arange(rows) % 97,
        impression_id=np.arange(rows) // 5,
        has_impression=np.ones(rows, bool),
        event_ts=np.arange(rows, dtype=np.int64),
        label=label,
        weight=1 / rate,
        sampling_rate=rate,
        p=1 / (1 + np.exp(1.5 - strength * signal)),
        has_history=with_history,
    )


def figures(seeds: int = 1, sampling_rate: float = 1.0) -> list[Figure]:
    """Every figure of one vertical: arms, slices, partitions, calibration bins."""
    arms = {arm: [scores(s, sampling_rate=sampling_rate)] * seeds for arm, s in STRENGTH.items()}
    ids = np.arange(3000)
    slices = {"user: new": ids[:900], "user: <heavy>": ids[900:]}
    slices |= {f"{PART_SLICE}{part}": ids[i::3] for i, part in enumerate(PARTS)}
    measured = list(Comparison(arms, slices, bootstrap=50).figures())
    return measured + [f for arm in ("base", "loopfm") for f in calibration_figures(arm, arms[arm][0])]


def report(seeds: int = 1, sampling_rate: float = 1.0) -> ReportData:
    """A report of two verticals, the second without any figures."""
    return ReportData(
        project="shop <b>",
        created="2026-01-12 00:00 UTC",
        seeds=seeds,
        windows=[Window("FM training", "2026-01-01", "2026-01-03"), Window("test", PARTS[0], PARTS[-1])],
        verticals=[
            VerticalReport(
                "click", figures(seeds, sampling_rate), gate="passed: no champion yet", model="shop-click 3"
            ),
            VerticalReport("buy", []),
        ],
        fm={"parameters": "12,345"},
        parts=[PartRow("2026-01-09", 1000, 3, {"click": 0.21}), PartRow("2026-01-10", 2000, 0, {"buy": 0.02})],
        quarantine={"label outside {0, 1}": 2, "null <user>": 1},
        lineage={"space": "fm-0123", "examples": "version 0", "commit": "abc & def"},
    )
