"""``/v1/hpo/studies``: ask and tell over HTTP, for trainers that are not in Python."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from deployments import problems
from deployments.bodies import check_depth, read_object
from qcluster.errors import InputError

__all__ = ["study_routes"]


def study_routes(host: Any, max_depth: int) -> APIRouter:
    """The routes; ``host`` answers like ``actors.studies.StudyHost``."""
    router = APIRouter(responses=problems.responses(404, 408, 413, 422, 503))

    async def body_of(request: Request, *known: str) -> dict[str, Any]:
        raw = await request.body()
        check_depth(raw, max_depth)
        body: dict[str, Any] = read_object(raw) if raw.strip() else {}
        unknown = set(body) - set(known)
        if known and unknown:
            raise InputError("is not understood", field=min(unknown))
        return body

    @router.post("", status_code=201, responses=problems.responses(409))
    async def create(request: Request) -> JSONResponse:
        """Create a study: ``id``, ``space``, and ``strategy``, ``mode``, ``seed`` as in Python."""
        body = await body_of(request)
        name, space = body.pop("id", None), body.pop("space", None)
        if not isinstance(name, str):
            raise InputError("wants a name", field="id")
        if not isinstance(space, dict):
            raise InputError("wants an object of parameters", field="space")
        made = await run_in_threadpool(host.create, name, space, body)
        return JSONResponse(made, 201, {"Location": f"/v1/hpo/studies/{name}"})

    @router.get("")
    def listed() -> JSONResponse:
        """Names of all studies."""
        return JSONResponse({"studies": host.list()})

    @router.post("/{study}/ask")
    async def ask(study: str, request: Request) -> JSONResponse:
        """The next trials: ``n``, and ``request`` to get the same ones when asked again."""
        body = await body_of(request, "n", "request")
        found = await run_in_threadpool(host.ask, study, body.get("n", 1), body.get("request"))
        return JSONResponse({"trials": found})

    @router.post("/{study}/tell")
    async def tell(study: str, request: Request) -> JSONResponse:
        """What a trial gave: ``trial``, ``value``, and perhaps ``status`` and ``step``."""
        body = await body_of(request, "trial", "value", "status", "step")
        if not isinstance(body.get("trial"), str):
            raise InputError("wants a trial's id", field="trial")
        told = await run_in_threadpool(
            host.tell, study, body["trial"], body.get("value"), body.get("status", "ok"),
            body.get("step"),
        )  # fmt: skip
        return JSONResponse(told)

    @router.get("/{study}")
    def show(study: str) -> JSONResponse:
        """Counts, best trials and those that are running."""
        return JSONResponse(host.show(study, 10))

    @router.get("/{study}/history")
    def history(study: str) -> JSONResponse:
        """All trials, in order."""
        return JSONResponse({"trials": host.history(study)})

    return router
