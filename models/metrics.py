"""What figures are computed from: scores of evaluated rows and its metrics (numpy only)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelConfigError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

P_FLOOR = 1e-7


@dataclass(frozen=True)
class Scores:
    """One model's scores of N evaluated rows, in any order. All arrays are [N].

    ``weight`` is the effective weight (weight / sampling_rate); ``sampling_rate`` undoes it for the raw figures.
    ``impression_id`` is 0 with ``has_impression`` false where the source has no impressions. ``has_history`` tells per
    reader key whether the example had a readable token (coverage).
    """

    example_id: Ints
    user: Ints
    impression_id: Ints
    has_impression: NDArray[np.bool_]
    event_ts: Ints
    label: Floats
    weight: Floats
    sampling_rate: Floats
    p: Floats
    has_history: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: NDArray[np.generic]) -> Scores:
        """Rows chosen by a mask or an index: a slice, or an order."""
        arrays = {name: value[rows] for name, value in vars(self).items() if name != "has_history"}
        return Scores(**arrays, has_history={key: has[rows] for key, has in self.has_history.items()})

    def with_p(self, p: Floats) -> Scores:
        """The same rows scored by another model."""
        return replace(self, p=p)


def places_of(ids: Ints, wanted: Ints) -> NDArray[np.intp]:
    """Where in ``ids``, in any order and each there once, each of ``wanted`` lies; all of them must be there."""
    order = np.argsort(ids)
    return order[np.searchsorted(ids, wanted, sorter=order)]


class GroupedAuc(NamedTuple):
    """``value`` over the groups that hold both classes; one-class groups are ``skipped`` and counted."""

    value: float
    groups: int
    skipped: int


class GroupAucs(NamedTuple):
    """AUC of each group; all [G]. ``auc`` is nan for a one-class group. ``weight``: summed row weights."""

    group: NDArray[np.generic]
    auc: Floats
    weight: Floats


def log_loss(label: Floats, p: Floats) -> Floats:
    """Logistic loss of each row, in nats. Shapes: [N], [N] -> [N]."""
    clipped = np.clip(p, P_FLOOR, 1 - P_FLOOR)
    return -(label * np.log(clipped) + (1 - label) * np.log1p(-clipped))


def entropy(rate: Floats | float) -> Floats:
    """Entropy of a Bernoulli of this rate, in nats; 0 at rates 0 and 1."""
    rate = np.asarray(rate, np.float64)
    inside = np.clip(rate, 1e-300, 1.0)
    outside = np.clip(1 - rate, 1e-300, 1.0)
    return -(rate * np.log(inside) + (1 - rate) * np.log(outside))


def ne_of_sums(loss: Floats, positives: Floats, weight: Floats) -> Floats:
    """NE from weighted sums over the evaluated rows; nan where they hold one class only."""
    with np.errstate(divide="ignore", invalid="ignore"):
        base = entropy(positives / weight)
        return np.where(base > 0, loss / weight / base, np.nan)


def normalized_entropy(label: Floats, p: Floats, weight: Floats | None = None) -> float:
    """NE: log loss over the entropy of these rows' own base rate; nan where they hold one class only."""
    weight = np.ones(len(label)) if weight is None else weight
    return float(ne_of_sums((weight * log_loss(label, p)).sum(), (weight * label).sum(), weight.sum()))


def auc(label: Floats, p: Floats, weight: Floats | None = None) -> float:
    """Weighted area under the ROC curve, ties counted half; nan where the rows hold one class only."""
    return float(group_aucs(label, p, np.zeros(len(label), np.int8), weight).auc[0]) if len(label) else float("nan")


def calibration(label: Floats, p: Floats, weight: Floats | None = None) -> float:
    """Weighted sum of p over weighted sum of labels; nan without positives."""
    weight = np.ones(len(label)) if weight is None else weight
    positives = float((weight * label).sum())
    return float((weight * p).sum()) / positives if positives > 0 else float("nan")


def group_aucs(label: Floats, p: Floats, groups: NDArray[np.generic], weight: Floats | None = None) -> GroupAucs:
    """Weighted AUC within each group, one sort for all of them. All arguments [N], N >= 1."""
    weight = np.ones(len(label)) if weight is None else np.asarray(weight, np.float64)
    order = np.lexsort((p, groups))
    group, score = groups[order], p[order]
    positive, negative = (weight * label)[order], (weight * (1 - label))[order]
    new_group = np.r_[True, group[1:] != group[:-1]]
    new_tie = new_group | np.r_[True, score[1:] != score[:-1]]
    ties, starts = np.flatnonzero(new_tie), np.flatnonzero(new_group)
    group_of_tie = (np.cumsum(new_group) - 1)[ties]
    tie_positive, tie_negative = np.add.reduceat(positive, ties), np.add.reduceat(negative, ties)
    sums = np.add.reduceat(np.c_[positive, negative], starts, axis=0)
    before = np.cumsum(tie_negative) - tie_negative - (np.cumsum(sums[:, 1]) - sums[:, 1])[group_of_tie]
    area = np.bincount(group_of_tie, tie_positive * (before + tie_negative / 2), len(starts))
    pairs = sums[:, 0] * sums[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(pairs > 0, area / pairs, np.nan)
    return GroupAucs(group[starts], values, sums.sum(axis=1))


def grouped_auc(
    label: Floats,
    p: Floats,
    groups: NDArray[np.generic],
    weighting: Literal["rows", "none"],
    weight: Floats | None = None,
) -> GroupedAuc:
    """Mean AUC over groups: ``rows`` weighs a group by its rows' weights (gAUC), ``none`` counts each once (iAUC)."""
    if not len(label):
        return GroupedAuc(float("nan"), 0, 0)
    parts = group_aucs(label, p, groups, weight)
    usable = ~np.isnan(parts.auc)
    skipped = int((~usable).sum())
    if not usable.any():
        return GroupedAuc(float("nan"), 0, skipped)
    group_weight = parts.weight[usable] if weighting == "rows" else None
    return GroupedAuc(float(np.average(parts.auc[usable], weights=group_weight)), int(usable.sum()), skipped)


def evaluate(scores: Scores) -> dict[str, float]:
    """Every metric of one slice of rows.

    ``ne``, ``auc``, ``gauc`` (per user, row-weighted), ``iauc`` (per impression, unweighted) and ``calibration`` use
    the effective weights, thus corrected for sampling; ``ne_raw`` and ``calibration_raw`` those of the sampled rows.
    ``coverage_KEY`` is the share of rows with a history of KEY. Undefined values are nan.
    """
    label, p, weight = scores.label, scores.p, scores.weight
    raw_weight = weight * scores.sampling_rate
    seen = scores.has_impression
    gauc = grouped_auc(label, p, scores.user, "rows", weight)
    iauc = grouped_auc(label[seen], p[seen], scores.impression_id[seen], "none", weight[seen])
    figures = {
        "rows": float(len(scores)),
        "positives": float(label.sum()),
        "base_rate": float((weight * label).sum() / weight.sum()) if len(scores) else float("nan"),
        "ne": normalized_entropy(label, p, weight),
        "ne_raw": normalized_entropy(label, p, raw_weight),
        "auc": auc(label, p, weight),
        "gauc": gauc.value,
        "gauc_skipped": float(gauc.skipped),
        "iauc": iauc.value,
        "iauc_skipped": float(iauc.skipped),
        "calibration": calibration(label, p, weight),
        "calibration_raw": calibration(label, p, raw_weight),
    }
    coverage = {f"coverage_{key}": float(has.mean()) for key, has in scores.has_history.items() if len(has)}
    return figures | coverage


def transfer_ratio(ne_base: float, ne_arm: float, ne_fm: float, fm_gain_se: float) -> float | None:
    """TR = (NE_base - NE_arm) / (NE_base - NE_FM); None where the FM's gain is under 3 of its standard errors."""
    gain = ne_base - ne_fm
    if not gain > 0 or gain < 3 * fm_gain_se:
        return None
    return (ne_base - ne_arm) / gain


def same_rows(a: Scores, b: Scores) -> tuple[Scores, Scores]:
    """Both in order of (example_id), for a paired comparison.

    Raises:
        ModelConfigError: the two do not hold the same examples.
    """
    a, b = a.take(np.argsort(a.example_id, kind="stable")), b.take(np.argsort(b.example_id, kind="stable"))
    if not np.array_equal(a.example_id, b.example_id):
        raise ModelConfigError(
            f"a paired comparison needs the same rows: got {len(a)} and {len(b)} rows, "
            f"{len(np.intersect1d(a.example_id, b.example_id))} in common; score both on one set of partitions"
        )
    return a, b
