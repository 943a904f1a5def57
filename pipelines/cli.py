"""``loopfm``: one verb a step, and the verbs that look, plan and run them all."""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections.abc import Callable, Sequence

from feature_store.config import RAW_SPACE
from pipelines import cli_align, cli_operate, cli_search, cli_value
from pipelines.cli_examples import EXAMPLES
from pipelines.cli_steps import STEP_HANDLERS
from pipelines.cli_verbs import HANDLERS
from pipelines.config import ALL_ARMS, ARMS
from pipelines.errors import LostProcessError, PipelineError, UnexpectedError
from pipelines.failures import annotate, known_error, text_of
from pipelines.orchestration.facts import run_id, save_facts

EPILOG = """\
Settings: LOOPFM_DATA root of data sets (default ../shared/data) · LOOPFM_HOME where tables, models and reports go
(default .loopfm) · MLFLOW_TRACKING_URI · LOOPFM_SPARK_MASTER · LOOPFM_SPARK_MEMORY ·
LOOPFM_SPARK_JAVA_OPTIONS.
Partitions are the UTC start of a partition (2023-05-25T13); a whole day (2023-05-25) stands for all of its partitions.
"""

Options = Callable[[argparse.ArgumentParser], None]


def _range(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="first", metavar="PART", help="first partition or day (default: the data's)")
    parser.add_argument("--to", dest="last", metavar="PART", help="last partition or day, included")


def _check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from", dest="first", metavar="PART", help="first partition or day (default: the whole source)"
    )
    parser.add_argument("--to", dest="last", metavar="PART", help="last partition or day, included (default: --from)")
    parser.add_argument(
        "--record",
        action="store_true",
        help="with --from: enter a source that cannot be read in the ledger, as a failed ingest of these partitions",
    )


def _required_range(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="first", metavar="PART", required=True, help="first partition or day")
    parser.add_argument("--to", dest="last", metavar="PART", help="last partition or day, included (default: --from)")


def _reopened(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reopened", action="store_true", help="with one partition: also earlier ones that late rows re-opened"
    )


def _sources(parser: argparse.ArgumentParser) -> None:
    _required_range(parser)
    _reopened(parser)


def _space(parser: argparse.ArgumentParser, also: str = "") -> None:
    parser.add_argument("--space", metavar="ID", help=f"space of the FM{also} (default: the newest active one)")


def _range_and_space(parser: argparse.ArgumentParser) -> None:
    _required_range(parser)
    _space(parser)
    _reopened(parser)


def _segments(parser: argparse.ArgumentParser) -> None:
    _required_range(parser)
    _space(parser, f", or {RAW_SPACE}: tokens without vectors, which all spaces share")
    _reopened(parser)


def _vertical(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vertical", metavar="NAME", required=True, help="which vertical, as named in the YAML file")


def _training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="first", metavar="PART", help="first partition or day to train on")
    parser.add_argument("--to", dest="last", metavar="PART", help="last partition or day to validate on, included")
    parser.add_argument("--validate-from", metavar="PART", help="first partition of the validation window")
    parser.add_argument(
        "--until", metavar="PART", help="instead of these three: the settings' newest windows by this partition"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and order (default 0)")


def _train_fm(parser: argparse.ArgumentParser) -> None:
    _training(parser)
    parser.add_argument("--processes", type=int, default=1, help="training processes on this machine (torchrun)")


def _train_vm(parser: argparse.ArgumentParser) -> None:
    _vertical(parser)
    _training(parser)
    _space(parser)
    parser.add_argument(
        "--arm", choices=ALL_ARMS, help="variant of the VM (default: vm.scheduled_arm of the YAML file)"
    )
    parser.add_argument("--warm", action="store_true", help="start from the champion's weights; new ids are added")


def _evaluate(parser: argparse.ArgumentParser) -> None:
    _vertical(parser)
    _required_range(parser)
    parser.add_argument("--version", metavar="N", help="version beside the champion (default: the challenger)")


def _promote(parser: argparse.ArgumentParser) -> None:
    _vertical(parser)
    parser.add_argument("--version", metavar="N", help="model version (default: the challenger)")
    parser.add_argument("--approve", action="store_true", help="promote a challenger that the gate holds")


def _rollback(parser: argparse.ArgumentParser) -> None:
    _vertical(parser)


def _run(parser: argparse.ArgumentParser) -> None:
    _range(parser)
    parser.add_argument("--seeds", type=int, default=1, help="seeds of FM and VMs (default 1: no claim)")
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=ALL_ARMS,
        default=list(ARMS),
        help="arms to compare (default: all but raw_* and control_kd)",
    )


def _predict(parser: argparse.ArgumentParser) -> None:
    _vertical(parser)
    parser.add_argument("--part", required=True, help="partition to score")
    parser.add_argument("--version", metavar="N", help="model version (default: the champion)")
    parser.add_argument("--space", metavar="ID", help="read rows of another space, through a fitted map (see align)")
    parser.add_argument("--histories", metavar="FOLDER", help="exported histories to read instead of the store's")
    parser.add_argument("--out", metavar="FILE", required=True, help="Parquet file of example_id, p")


def _export(parser: argparse.ArgumentParser) -> None:
    _space(parser)
    parser.add_argument("--as-of", metavar="INSTANT", required=True, help="ISO time in UTC, or milliseconds")
    parser.add_argument("--out", metavar="FOLDER", required=True, help="folder for one Parquet file a key")


def _report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="FILE", help="HTML file (default: report.html beside the tables)")


def _nothing(parser: argparse.ArgumentParser) -> None:
    del parser


VERBS: dict[str, tuple[Options, str]] = {
    "check": (_check, "read the source; print rows, labels, nulls, duplicates and what would be quarantined"),
    "plan": (_run, "say what a run over a range would do, and why; writes nothing"),
    "run": (_run, "the whole loop over a range: ingest to report"),
    "status": (_nothing, "coverage: which partitions of which table are done, missing, stale or failed"),
    "ingest": (_sources, "source rows to examples, labels, past events and quarantine"),
    "fm-inputs": (_sources, "as-of features of the FM"),
    "train-fm": (_train_fm, "train FM and codec, register the FM and open its space"),
    "infer": (_range_and_space, "one FM pass per example: vectors and logits"),
    "segments": (_segments, "each key's newest tokens within a partition"),
    "features": (_range_and_space, "VM rows and the histories that they read"),
    "train-vm": (_train_vm, "train one VM and register it as challenger"),
    "evaluate": (_evaluate, "score registered VMs of a vertical on later mature partitions"),
    "promote": (_promote, "put the challenger through the gate; promote, hold or refuse it"),
    "rollback": (_rollback, "give the champion alias back to the version before"),
    "report": (_report, "write the HTML report of what was measured"),
    "predict": (_predict, "score one partition with a registered VM"),
    "export-histories": (_export, "each key's newest tokens readable at an instant, for serving"),
    "canary": (_range, "prove that nothing leaks: non-interference, and that deliberate leaks are seen"),
    "backfill": (cli_operate.backfill_options, "plan what is missing or stale, then let Airflow write it in chunks"),
    "write": (cli_operate.write_options, "every step over a range in one Spark session; keeps what is fresh"),
    "score": (cli_operate.score_options, "score the champions on partitions whose labels have just become known"),
    "watch": (cli_operate.watch_options, "print what is out of its band: lag, quarantine, drift, calibration"),
    "gate": (cli_operate.gate_options, "put a challenger through the gate without promoting it"),
    "compare": (cli_operate.compare_options, "train and measure every arm of a vertical on its newest windows"),
    "close-spaces": (cli_operate.close_options, "close spaces that no champion, rollback or challenger names"),
    "search": (cli_search.search_options, "search a better VM; register the winner as challenger"),
    "align": (cli_align.align_options, "fit a map from one space's vectors to another's on examples that both hold"),
    "value": (cli_value.value_options, "what the FM is worth, where the rest is lost, costs, leaks and lag"),
    "maintain": (_nothing, "compact closed partitions, expire closed spaces, remove files that nobody needs"),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="loopfm",
        description="Foundation-model embeddings of past examples as input features of vertical models, in batch.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (options, text) in VERBS.items():
        epilog = f"Example: loopfm {name} {EXAMPLES[name]}\n\n{EPILOG}"
        verb = verbs.add_parser(name, help=text, description=text, epilog=epilog)
        verb.formatter_class = argparse.RawDescriptionHelpFormatter
        verb.add_argument("conf", metavar="CONF", help="YAML file of the project, such as conf/demo.yaml")
        options(verb)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; errors end with their message, where, counts and what to do, and exit status 1."""
    from feature_store.errors import FeatureStoreError
    from models.errors import ModelsError
    from search.errors import SearchError

    options = parser().parse_args(arguments)
    handlers = (
        HANDLERS
        | STEP_HANDLERS
        | cli_operate.OPERATE_HANDLERS
        | cli_search.SEARCH_HANDLERS
        | cli_align.ALIGN_HANDLERS
        | cli_value.VALUE_HANDLERS
    )
    try:
        save_facts(handlers[options.verb](options))
    except Exception as error:
        known = known_error(error, options.verb, _named_parts(options))
        if not isinstance(known, PipelineError | FeatureStoreError | ModelsError | SearchError):
            traceback.print_exc()
            known = UnexpectedError(f"{type(error).__name__}: {error}".splitlines()[0])
        return _failed(options, known)
    return 0


def _failed(options: argparse.Namespace, error: Exception) -> int:
    """Say what failed, where, with which counts, and what to do: the last lines that this process prints."""
    annotate(error, _named_parts(options), run_id())
    if isinstance(error, LostProcessError):
        logging.disable()  # py4j tells of every later call into the JVM that is gone
    print(f"loopfm {options.verb}: {text_of(error)}", file=sys.stderr, flush=True)
    return 1


def _named_parts(options: argparse.Namespace) -> list[str]:
    named = [getattr(options, name, None) for name in ("first", "last", "part", "until")]
    return list(dict.fromkeys(part for part in named if part))


if __name__ == "__main__":
    sys.exit(main())
