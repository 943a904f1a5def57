"""The tables of a report as rows of text, the same for the terminal and for HTML."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from feature_store.config import RAW_SPACE
from pipelines.measure import ALL_ROWS, BATCH_FM_ARM, FM_ARM, WORLD_P, WORLD_STATE, WORLD_VM, Figure
from pipelines.report_data import ARM_LABELS, COVERAGE, STALENESS, VerticalReport

MISSING = "-"
BOUNDS = (WORLD_VM, WORLD_STATE, WORLD_P)
SAME = 5e-4


@dataclass(frozen=True)
class TextTable:
    """A table: column titles, and rows of a title, cells and a kind (``arm``, ``fm`` or ``bound``)."""

    columns: list[str]
    rows: list[tuple[str, list[str], str]]


def decimals(places: int) -> Callable[[float | None], str]:
    """A formatter with a fixed number of decimals."""
    return lambda value: MISSING if value is None or math.isnan(value) else f"{value:.{places}f}"


def percent(value: float | None) -> str:
    """A share as whole percent."""
    return MISSING if value is None or math.isnan(value) else f"{100 * value:.0f} %"


def difference(figure: Figure | None) -> str:
    """A signed difference with its 95 % interval."""
    if figure is None:
        return MISSING
    if math.isnan(figure.low) or math.isnan(figure.high):
        return f"{figure.value:+.4f}"
    return f"{figure.value:+.4f} [{figure.low:+.4f}, {figure.high:+.4f}]"


def arm_label(arm: str) -> str:
    """The words for an arm."""
    return ARM_LABELS.get(arm, arm)


def history_label(key: str) -> str:
    """The words for a key whose coverage was measured, such as ``fm_item``: the key, then which tokens."""
    tokens, _, name = key.partition("_")
    words = {"fm": "FM tokens", RAW_SPACE: "raw tokens"}
    return f"{name} ({words[tokens]})" if name and tokens in words else key


def arms_table(vertical: VerticalReport) -> TextTable:
    """Every arm on all evaluated rows. Columns that no arm has figures for are left out."""
    cells = _cells(vertical)
    rows = [(arm_label(arm), [cell(arm) for cell in cells.values()], _kind(arm)) for arm in vertical.arms]
    used = [place for place in range(len(cells)) if any(row[1][place] != MISSING for row in rows)]
    titles = list(cells)
    return TextTable(
        [titles[place] for place in used],
        [(title, [row[place] for place in used], kind) for title, row, kind in rows],
    )


def slices_table(vertical: VerticalReport) -> TextTable:
    """NE of every arm on every named slice, with the slice's rows."""
    arms = vertical.arms
    rows = []
    for name in vertical.named_slices:
        counts = [f.rows for f in vertical.figures if f.slice == name]
        cells = [decimals(4)(vertical.value(arm, "ne", name)) for arm in arms]
        rows.append((name, [f"{max(counts):,}", *cells], "arm"))
    return TextTable(["rows", *(arm_label(arm) for arm in arms)], rows)


def seeds_table(vertical: VerticalReport) -> TextTable:
    """NE of every arm by seed; no rows where one seed only was run."""
    by_arm: dict[str, dict[int, float]] = {}
    for figure in vertical.figures:
        if figure.seed is not None and figure.metric == "ne" and figure.slice == ALL_ROWS:
            by_arm.setdefault(figure.arm, {})[figure.seed] = figure.value
    seeds = sorted({seed for values in by_arm.values() for seed in values})
    rows = [
        (arm_label(arm), [decimals(4)(by_arm[arm].get(seed)) for seed in seeds], _kind(arm))
        for arm in vertical.arms
        if arm in by_arm
    ]
    return TextTable([f"seed {seed}" for seed in seeds], rows)


def value_lines(vertical: VerticalReport) -> list[str]:
    """What the FM is worth here, in sentences: its NE gain, and how much of it each LoopFM arm carries."""
    fm, base = vertical.value(FM_ARM, "ne"), vertical.value("base", "ne")
    if fm is None or base is None:
        return ["The FM and base were not measured side by side"]
    lines = [f"The FM gains {base - fm:+.4f} NE over base ({base:.4f} to {fm:.4f})"]
    lines += [
        _arm_value(vertical, arm) for arm in ("kd", "loopfm", "loopfm_kd") if vertical.value(arm, "ne") is not None
    ]
    return lines


def _arm_value(vertical: VerticalReport, arm: str) -> str:
    gain = (vertical.value("base", "ne") or 0.0) - (vertical.value(arm, "ne") or 0.0)
    ratio = vertical.value(arm, "tr")
    carried = (
        "no transfer ratio: the FM's gain is too uncertain" if ratio is None else f"transfer ratio {percent(ratio)}"
    )
    text = f"{arm_label(arm).removeprefix('+ ')} gains {gain:+.4f} NE over base, {carried}"
    control = vertical.find(arm, "ne_minus_control")
    return text if control is None or arm == "kd" else f"{text}; NE against its control {difference(control)}"


def _kind(arm: str) -> str:
    return "bound" if arm in BOUNDS else "fm" if arm in (FM_ARM, BATCH_FM_ARM) else "arm"


def _cells(vertical: VerticalReport) -> Mapping[str, Callable[[str], str]]:
    """Column title -> cell of an arm. Raw figures stand beside corrected ones where sampling makes them differ."""

    def value(metric: str, show: Callable[[float | None], str]) -> Callable[[str], str]:
        return lambda arm: show(vertical.value(arm, metric))

    def versus(metric: str) -> Callable[[str], str]:
        return lambda arm: difference(vertical.find(arm, metric))

    sampled = {"NE (sampled rows)": value("ne_raw", decimals(4))} if _differs(vertical, "ne") else {}
    raw = {"calib. (sampled rows)": value("calibration_raw", decimals(3))} if _differs(vertical, "calibration") else {}
    coverage = {f"coverage {history_label(k)}": value(f"{COVERAGE}{k}", percent) for k in vertical.history_keys}
    return {
        "NE": value("ne", decimals(4)),
        **sampled,
        "NE vs base": versus("ne_minus_base"),
        "NE vs control": versus("ne_minus_control"),
        "AUC": value("auc", decimals(4)),
        "gAUC": value("gauc", decimals(4)),
        "iAUC": value("iauc", decimals(4)),
        "calib.": value("calibration", decimals(3)),
        **raw,
        "TR": value("tr", percent),
        "TR from counters": value("tr_from_counters", percent),
        "TR from control": value("tr_from_control", percent),
        "TR of batch FM": value("tr_of_batch_fm", percent),
        "TR of visible state": value("tr_of_visible_state", percent),
        **coverage,
        "staleness (h)": value(STALENESS, decimals(1)),
        "rows": lambda arm: _rows(vertical.find(arm, "ne")),
    }


def _rows(figure: Figure | None) -> str:
    return MISSING if figure is None else f"{figure.rows:,}"


def _differs(vertical: VerticalReport, metric: str) -> bool:
    """Whether sampling changes a metric on any arm."""
    pairs = [(vertical.value(arm, metric), vertical.value(arm, f"{metric}_raw")) for arm in vertical.arms]
    return any(a is not None and b is not None and abs(a - b) > SAME for a, b in pairs)
