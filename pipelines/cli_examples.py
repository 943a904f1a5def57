"""One example of every verb, shown by its ``--help``."""

from __future__ import annotations

DEMO = "conf/demo.yaml"
DAYS = "--from 2026-01-08 --to 2026-01-10"
TRAINING = "--from 2026-01-05 --to 2026-01-08 --validate-from 2026-01-08"

EXAMPLES: dict[str, str] = {
    "check": f"{DEMO} --from 2026-01-01 --to 2026-01-02",
    "plan": f"{DEMO} --arms base loopfm_kd",
    "run": f"{DEMO} --arms base loopfm_kd",
    "status": DEMO,
    "ingest": f"{DEMO} {DAYS}",
    "fm-inputs": f"{DEMO} {DAYS}",
    "train-fm": f"{DEMO} --from 2026-01-01 --to 2026-01-04 --validate-from 2026-01-04",
    "infer": f"{DEMO} {DAYS}",
    "segments": f"{DEMO} {DAYS} --space raw",
    "features": f"{DEMO} {DAYS}",
    "train-vm": f"{DEMO} --vertical feed {TRAINING} --arm loopfm",
    "evaluate": f"{DEMO} --vertical feed --from 2026-01-09 --to 2026-01-10",
    "promote": f"{DEMO} --vertical feed",
    "rollback": f"{DEMO} --vertical feed",
    "report": f"{DEMO} --out report.html",
    "predict": f"{DEMO} --vertical feed --part 2026-01-10 --out predictions.parquet",
    "export-histories": f"{DEMO} --as-of 2026-01-10T01:00 --out histories",
    "canary": DEMO,
    "backfill": f"{DEMO} {DAYS} --dry-run",
    "write": f"{DEMO} {DAYS}",
    "score": f"{DEMO} --part 2026-01-10",
    "watch": f"{DEMO} --part 2026-01-10 --live",
    "gate": f"{DEMO} --vertical feed",
    "compare": f"{DEMO} --vertical feed --until 2026-01-10",
    "close-spaces": DEMO,
    "search": f"{DEMO} --vertical feed --trials 20",
    "align": f"{DEMO} --from-space fm-1a2b3c4d --to-space fm-5e6f7a8b {DAYS}",
    "value": f"{DEMO} --seeds 3",
    "maintain": DEMO,
}
