"""Train an FM in processes of its own: a prepared folder in, a result file out.

``python -m models.fm_launch FOLDER`` is what each process runs; torchrun starts several of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from models.config import FeatureSpec, FmConfig
from models.errors import TrainingProcessError
from models.fm_data import FmRows
from models.fm_train import FmTrainResult, train_fm
from models.trainer import EpochRecord

REQUEST_FILE = "request.json"
RESULT_FILE = "result.json"

_WINDOWS = ("train", "validation")
_TABLES = ("inputs", "labels")


def write_request(
    folder: Path,
    config: FmConfig,
    specs: list[FeatureSpec],
    heads: list[str],
    train: FmRows,
    validation: FmRows,
    start: Path | None = None,
    snapshots: Sequence[Path] = (),
) -> None:
    """Write all that a training reads into ``folder``; an earlier result there is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT_FILE).unlink(missing_ok=True)
    for window, rows in zip(_WINDOWS, (train, validation), strict=True):
        for table in _TABLES:
            pq.write_table(getattr(rows, table), folder / f"{window}_{table}.parquet")
    request = {
        "config": config.model_dump(),
        "specs": [spec.model_dump() for spec in specs],
        "heads": heads,
        "start": None if start is None else str(start.resolve()),
        "snapshots": [str(path.resolve()) for path in snapshots],
        "known_at": {"train": train.known_at, "validation": validation.known_at},
    }
    (folder / REQUEST_FILE).write_text(json.dumps(request))


def run_request(folder: Path, progress: Callable[[EpochRecord], None] | None, resume: bool) -> FmTrainResult:
    """Train as ``folder`` asks, in this process (and those that torchrun started beside it); the model lies there."""
    request = json.loads((folder / REQUEST_FILE).read_text())
    train, validation = (_rows(folder, window, request["known_at"][window]) for window in _WINDOWS)
    specs = [FeatureSpec.model_validate(spec) for spec in request["specs"]]
    config = FmConfig.model_validate(request["config"])
    start = Path(request["start"]) if request["start"] else None
    snapshots = [Path(path) for path in request["snapshots"]]
    return train_fm(config, specs, request["heads"], train, validation, folder, progress, resume, start, snapshots)


def launch(
    folder: Path, processes: int = 1, progress: Callable[[EpochRecord], None] | None = None, resume: bool = False
) -> FmTrainResult:
    """Train as ``folder`` asks in ``processes`` new processes on this machine.

    Raises:
        TrainingProcessError: the training failed; the message holds the end of what it printed.
    """
    entry = ["-m", "models.fm_launch", str(folder), *(["--resume"] if resume else [])]
    runner = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *runner, *entry]
    tail: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        for line in child.stdout or []:
            record = _record(line)
            if record is not None and progress is not None:
                progress(record)
            tail = [*tail[-30:], line] if record is None else tail
    if child.returncode:
        raise TrainingProcessError(f"FM training in {folder} ended with status {child.returncode}:\n{''.join(tail)}")
    return read_result(folder)


def read_result(folder: Path) -> FmTrainResult:
    """The result that the first process wrote."""
    result = json.loads((folder / RESULT_FILE).read_text())
    return FmTrainResult(**result | {"history": [EpochRecord(**record) for record in result["history"]]})


def main(arguments: list[str]) -> None:
    """Entry of each process: FOLDER [--resume]. Prints a JSON line an epoch."""
    folder = Path(arguments[0])
    result = run_request(folder, lambda record: print(json.dumps(asdict(record)), flush=True), "--resume" in arguments)
    if os.environ.get("RANK", "0") == "0":
        (folder / RESULT_FILE).write_text(json.dumps(asdict(result)))


def _rows(folder: Path, window: str, known_at: int) -> FmRows:
    inputs, labels = (pq.read_table(folder / f"{window}_{table}.parquet") for table in _TABLES)
    return FmRows(inputs, labels, known_at)


def _record(line: str) -> EpochRecord | None:
    try:
        return EpochRecord(**json.loads(line))
    except (ValueError, TypeError):
        return None


if __name__ == "__main__":
    main(sys.argv[1:])
