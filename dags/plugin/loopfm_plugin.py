"""The Airflow plugin: two pages in the navigation, served by the app of ``dags.plugin.app``, and the timetable and the
deadline that the scheduler needs for the Dags.

Every Airflow process loads plugins, tasks among them; only the API server asks for ``fastapi_apps``. So the app, which
imports Airflow's whole API, is made when it is asked for.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from dags.deadline import PartitionClosed
from dags.plugin import URL_PREFIX
from dags.timetable import EveryPartitions, PartitionTimetable


def _view(name: str, page: str) -> dict[str, Any]:
    # Relative, so that an Airflow served below a path of its own finds it too.
    href = f"{URL_PREFIX.lstrip('/')}/{page}"
    icon = f"{URL_PREFIX.lstrip('/')}/static/{page}"
    return {
        "name": name,
        "href": href,
        "destination": "nav",
        "url_route": f"loopfm-{page}",
        "nav_top_level": True,
        "icon": f"{icon}.svg",
        "icon_dark_mode": f"{icon}_dark.svg",
    }


class LoopfmPlugin(AirflowPlugin):
    """Coverage and VMs of every project of the projects' folder; what the data Dag is scheduled by."""

    name = "loopfm"
    timetables = [PartitionTimetable, EveryPartitions]  # noqa: RUF012
    deadline_references = [PartitionClosed]  # noqa: RUF012
    external_views = [_view("Coverage", "coverage"), _view("VMs", "vms")]  # noqa: RUF012

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The pages' app, made on request."""
        from dags.plugin.app import create_app

        return [{"name": "loopfm", "app": create_app(), "url_prefix": URL_PREFIX}]
