"""The verb ``value``: a team's report on what its FM is worth."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from pipelines.cli_verbs import Facts, Handler, context_of

PAGE_FILE, JSON_FILE = "value.html", "value.json"


def value_options(parser: ArgumentParser) -> None:
    """Options of ``value``."""
    parser.add_argument("--from", dest="first", metavar="PART", help="first partition or day (default: the data's)")
    parser.add_argument("--to", dest="last", metavar="PART", help="last partition or day, included")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of FM and VMs (default 1: no claim)")
    parser.add_argument("--out", metavar="FOLDER", help=f"folder of {PAGE_FILE} and {JSON_FILE} (default: the tables')")


def value(options: Namespace) -> Facts:
    """Measure what is missing, write page and JSON, print the summary."""
    from pipelines.value import measure_value
    from pipelines.value_page import print_value, write_page
    from pipelines.windows import run_range, run_windows

    context = context_of(options)
    windows = run_windows(context.config, *run_range(context, options.first, options.last))
    report = measure_value(context, windows, options.seeds)
    folder = Path(options.out) if options.out else Path(context.scratch.parent)
    page = write_page(report, folder / PAGE_FILE)
    (folder / JSON_FILE).write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    print_value(report)
    print(f"report: {page}")
    return {"report": str(page)}


VALUE_HANDLERS: dict[str, Handler] = {"value": value}
