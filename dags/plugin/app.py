"""The pages over HTTP: static files, and questions answered by ``pipelines.inspection`` as JSON.

Every route asks Airflow's auth manager first. A plugin's routes are open to anyone unless they do.
"""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from feature_store.errors import FeatureStoreError
from pipelines.errors import PipelineError

STATIC = Path(__file__).parent / "static"
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'"
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""A report is one file that holds its own styles; it has no scripts."""
ALL_DAGS = "~"
"""Asked by name: without one, ``requires_access_dag`` takes the id of any Dag that a caller puts in the query."""
DRAWING = threading.Lock()
"""Matplotlib keeps its settings for the whole process."""

router = APIRouter()


def create_app(conf: Path | None = None, root: str | None = None) -> FastAPI:
    """The pages' app.

    Args:
        conf: folder of the projects' YAML files; the one that Dags are made from when absent.
        root: where tables lie; LOOPFM_HOME when absent.
    """
    from pipelines.inspection.projects import Projects
    from pipelines.orchestration.airflow_env import conf_folder

    app = FastAPI(
        title="LoopFM",
        dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.RUN, ALL_DAGS))],
        lifespan=_warm_lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.projects = Projects(conf or conf_folder(), root)
    app.include_router(router)
    for kind in (PipelineError, FeatureStoreError):
        app.add_exception_handler(kind, _refused)
    return app


@router.get("/coverage")
def coverage_page() -> FileResponse:
    """The page of the coverage grid."""
    return _file("coverage.html")


@router.get("/vms")
def vms_page() -> FileResponse:
    """The page of VMs."""
    return _file("vms.html")


@router.get("/report/{project}")
def report(request: Request, project: str) -> Response:
    """The HTML report of the newest comparison, made from tables and MLflow, so that no disk is shared with tasks."""
    from pipelines.build_report import report_data
    from pipelines.report import render_report

    data = report_data(request.app.state.projects.context(project))
    with DRAWING:
        page = render_report(data)
    headers = {"Content-Security-Policy": REPORT_POLICY, "Cache-Control": "no-store"}
    return Response(page, media_type="text/html", headers=headers)


@router.get("/static/{name}")
def static(name: str) -> FileResponse:
    """Scripts, styles and icons of the pages."""
    return _file(name)


@router.get("/api/projects")
def projects(request: Request) -> Response:
    """Every project: name, file, and the error of a broken one."""
    return _answer([vars(file) for file in request.app.state.projects.files()])


@router.get("/api/projects/{project}/coverage")
def coverage(request: Request, project: str) -> Response:
    """States of all partitions of all tables."""
    from pipelines.inspection.coverage import grid

    return _answer(grid(request.app.state.projects.context(project)))


@router.get("/api/projects/{project}/partition")
def partition(request: Request, project: str, table: str, part: str, scope: str = "{}") -> Response:
    """Attempts at one partition; ``scope`` is a JSON object."""
    from pipelines.inspection.partition import partition as answer

    try:
        parsed: dict[str, str] = dict(json.loads(scope))
    except (TypeError, ValueError) as error:
        raise HTTPException(422, f"scope: got {scope!r}; allowed: a JSON object") from error
    return _answer(answer(request.app.state.projects.context(project), table, parsed, part))


@router.get("/api/projects/{project}/fed")
def fed(request: Request, project: str, part: str) -> Response:
    """Models that a partition fed."""
    from pipelines.inspection.lineage import fed as answer

    return _answer(answer(request.app.state.projects.context(project), part))


@router.get("/api/projects/{project}/vms")
def vms(request: Request, project: str) -> Response:
    """Champions, figures over time, staleness and the FM's value."""
    from pipelines.inspection.vms import vms as answer

    return _answer(answer(request.app.state.projects.context(project)))


@router.get("/api/projects/{project}/lineage")
def lineage(request: Request, project: str, vertical: str, version: str) -> Response:
    """What one version of a VM was made of."""
    from pipelines.inspection.lineage import lineage as answer

    return _answer(answer(request.app.state.projects.context(project), vertical, version))


def _answer(found: Any) -> Response:
    # Plain data already: FastAPI's own encoder would walk through tens of thousands of values once more.
    text = json.dumps(found, separators=(",", ":"), allow_nan=False)
    return Response(text, media_type="application/json", headers={"Cache-Control": "no-store"})


def _file(name: str) -> FileResponse:
    if name not in {path.name for path in STATIC.iterdir()}:
        raise HTTPException(404, f"no file {name!r}")
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    return FileResponse(STATIC / name, headers=headers)


def _refused(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=422)


@asynccontextmanager
async def _warm_lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Import what answers need and read each ledger once beside the server's start, so that no first answer waits."""
    threading.Thread(target=_warm, args=(app,), daemon=True, name="loopfm-warm-up").start()
    yield


def _warm(app: FastAPI) -> None:
    from pipelines.inspection.coverage import known_parts
    from pipelines.inspection.registered import has_models

    for file in app.state.projects.files():
        if file.error is None:
            context = app.state.projects.context(file.name)
            known_parts(context)
            if has_models(context.registry):
                context.registry.client.search_registered_models(max_results=1)
