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


_NAME = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}
_CREATE = {
    "id": _NAME,
    "space": {"type": "object", "minProperties": 1},
    "strategy": {"type": ["string", "object"]},
    "mode": {"enum": ["min", "max"]},
    "seed": {"type": "integer", "minimum": 0},
    "points": {"type": ["array", "null"], "items": {"type": "object"}},
    "pool": {"type": ["array", "null"], "items": {"type": "object"}, "minItems": 1},
    "max_step": {"type": ["integer", "null"], "minimum": 1},
}
_ASK = {"n": {"type": "integer", "minimum": 1, "maximum": 256}, "request": _NAME}
_TELL = {
    "trial": {"type": "string"},
    "value": {"type": ["number", "null"]},
    "status": {"enum": ["ok", "failed", "nan", "abandoned"]},
    "step": {"type": ["integer", "null"], "minimum": 0},
}


def _body(
    properties: dict[str, Any], example: dict[str, Any], required: tuple[str, ...] = ()
) -> dict[str, Any]:
    """OpenAPI of a JSON body."""
    schema = {"type": "object", "properties": properties, "required": list(required)}
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": bool(required), "content": content}}


def study_routes(host: Any, max_depth: int) -> APIRouter:
    """The routes; ``host`` answers like ``actors.studies.StudyHost``."""
    router = APIRouter(responses=problems.responses(404, 408, 413, 422, 503))
    _add_creation(router, host, max_depth)
    _add_search(router, host, max_depth)
    _add_views(router, host)
    return router


async def _read_body(request: Request, max_depth: int, *known: str) -> dict[str, Any]:
    """The JSON object in a body, empty for none; of ``known`` names alone, if any are given."""
    raw = await request.body()
    check_depth(raw, max_depth)
    body: dict[str, Any] = read_object(raw) if raw.strip() else {}
    unknown = set(body) - set(known)
    if known and unknown:
        raise InputError("is not understood", field=min(unknown))
    return body


def _add_creation(router: APIRouter, host: Any, max_depth: int) -> None:
    @router.post(
        "",
        status_code=201,
        responses={
            **problems.responses(409),
            **problems.senseless("a space or settings that no search can be made of"),
        },
        openapi_extra=_body(
            _CREATE,
            {"id": "first", "space": {"lr": {"type": "loguniform", "low": 1e-5, "high": 0.1}}},
            required=("id", "space"),
        ),
    )
    async def create(request: Request) -> JSONResponse:
        """Create a study: ``id``, ``space``, and what else ``Study`` takes in Python."""
        body = await _read_body(request, max_depth)
        name, space = body.pop("id", None), body.pop("space", None)
        if not isinstance(name, str):
            raise InputError("wants a name", field="id")
        if not isinstance(space, dict):
            raise InputError("wants an object of parameters", field="space")
        made = await run_in_threadpool(host.create, name, space, body)
        return JSONResponse(made, 201, {"Location": f"/v1/hpo/studies/{name}"})


def _add_search(router: APIRouter, host: Any, max_depth: int) -> None:
    @router.post(
        "/{study}/ask",
        responses=problems.senseless("more trials than a batch may have"),
        openapi_extra=_body(_ASK, {"n": 1}),
    )
    async def ask(study: str, request: Request) -> JSONResponse:
        """The next trials: ``n``, and ``request`` to get the same ones when asked again."""
        body = await _read_body(request, max_depth, "n", "request")
        found = await run_in_threadpool(host.ask, study, body.get("n", 1), body.get("request"))
        return JSONResponse({"trials": found})

    @router.post(
        "/{study}/tell",
        responses=problems.senseless("another outcome than the one a trial already has"),
        openapi_extra=_body(_TELL, {"trial": "t0000", "value": 0.5}, required=("trial",)),
    )
    async def tell(study: str, request: Request) -> JSONResponse:
        """What a trial gave: ``trial``, ``value``, and perhaps ``status`` and ``step``."""
        body = await _read_body(request, max_depth, "trial", "value", "status", "step")
        if not isinstance(body.get("trial"), str):
            raise InputError("wants a trial's id", field="trial")
        told = await run_in_threadpool(
            host.tell, study, body["trial"], body.get("value"), body.get("status", "ok"),
            body.get("step"),
        )  # fmt: skip
        return JSONResponse(told)


def _add_views(router: APIRouter, host: Any) -> None:
    @router.get("")
    def listed() -> JSONResponse:
        """Names of all studies."""
        return JSONResponse({"studies": host.list()})

    @router.get("/{study}")
    def show(study: str) -> JSONResponse:
        """Counts, best trials and those that are running."""
        return JSONResponse(host.show(study, 10))

    @router.get("/{study}/history")
    def history(study: str) -> JSONResponse:
        """All trials, in order."""
        return JSONResponse({"trials": host.history(study)})
