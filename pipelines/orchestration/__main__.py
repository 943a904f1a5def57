"""``python -m pipelines.orchestration up | down | airflow ...``: the local Airflow of ``make up`` and ``make down``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from pipelines.errors import PipelineError
from pipelines.orchestration.airflow_env import REPOSITORY, Site


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; known errors end with their message and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.orchestration", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("up", help="start Airflow and MLflow's page").add_argument("--upgrade", action="store_true")
    verbs.add_parser("down", help="end what up started")
    verbs.add_parser("demo", help="the whole loop through Airflow on the generated world")
    own = verbs.add_parser("airflow", help="run Airflow's own command line on this site")
    own.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    from pipelines.orchestration.demo import demo
    from pipelines.orchestration.services import down, up

    try:
        site = Site.from_environment()
        if options.verb == "up":
            up(site, options.upgrade)
        elif options.verb == "down":
            down(site)
        elif options.verb == "demo":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that Airflow ends too
            demo(site)
        else:
            command = [sys.executable, "-m", "airflow", *options.arguments]
            os.chdir(REPOSITORY)
            os.execve(sys.executable, command, site.environment())
    except PipelineError as error:
        print(f"{options.verb}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
