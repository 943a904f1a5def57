"""The gate: may a challenger replace the champion? Decided on NE, gAUC and calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.bootstrap import paired_difference
from models.metrics import Scores, calibration
from pipelines.config import GateConfig

Verdict = Literal["passed", "hold", "failed"]


@dataclass(frozen=True)
class GateResult:
    """The verdict and the figures that it rests on; undefined ones are left out."""

    verdict: Verdict
    reasons: list[str]
    metrics: dict[str, float]

    def __str__(self) -> str:
        return f"{self.verdict}: " + "; ".join(self.reasons)


def decide(gate: GateConfig, challenger: Scores, champion: Scores | None) -> GateResult:
    """Compare two models on the same rows of the newest mature partitions that neither trained on.

    Without a champion only the number of positives and the calibration count. Too few positives hold, and so does a
    gAUC that no user's examples define: a person decides.
    """
    positives = int(challenger.label.sum())
    figures = {"positives": float(positives)}
    if positives < gate.min_positives:
        reason = f"{positives} positives in mature partitions, gate.min_positives asks for {gate.min_positives}"
        return GateResult("hold", [reason], figures)
    failed = _calibration_reasons(gate, challenger, figures)
    if champion is None:
        return _result(failed, ["no champion yet, calibration in its band"], figures)
    ne = paired_difference("ne", [challenger], [champion], gate.bootstrap)
    gauc = paired_difference("gauc", [challenger], [champion], gate.bootstrap)
    measured = {"ne_difference": ne.mean, "ne_high": ne.high, "gauc_difference": gauc.mean, "gauc_low": gauc.low}
    figures |= {name: value for name, value in measured.items() if not np.isnan(value)}
    if not ne.high <= gate.margin:
        failed.append(f"NE difference {ne.mean:+.4f}, upper bound {ne.high:+.4f} > margin {gate.margin:.4f}")
    if gauc.low < -gate.gauc_margin:
        failed.append(f"gAUC difference {gauc.mean:+.4f}, lower bound {gauc.low:+.4f} < -{gate.gauc_margin:.4f}")
    if np.isnan(gauc.low) and not failed:
        return GateResult("hold", ["gAUC is undefined: no user has examples of both labels"], figures)
    passed = f"NE difference {ne.mean:+.4f} (upper bound {ne.high:+.4f}), gAUC {gauc.mean:+.4f}"
    return _result(failed, [passed], figures)


def _calibration_reasons(gate: GateConfig, scores: Scores, figures: dict[str, float]) -> list[str]:
    ratio = calibration(scores.label, scores.p, scores.weight)
    figures["calibration"] = ratio
    if gate.calibration_low <= ratio <= gate.calibration_high:
        return []
    return [f"calibration {ratio:.3f} lies outside {gate.calibration_low} .. {gate.calibration_high}"]


def _result(failed: list[str], passed: list[str], figures: dict[str, float]) -> GateResult:
    return GateResult("failed", failed, figures) if failed else GateResult("passed", passed, figures)
