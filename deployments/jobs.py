"""``/v1/jobs``: the batch's questions without holding a connection open for the answer."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from deployments import problems
from deployments.bodies import check_depth, read_object
from deployments.problems import Overloaded
from deployments.questions import REQUESTS, budget_s
from deployments.replay import PARAMETER, USED
from qcluster.errors import InputError
from qcluster.request import parse_request

__all__ = ["job_routes"]

MAX_QUESTIONS = 4096


def job_routes(desk: Any, max_depth: int) -> APIRouter:
    """The routes; ``desk`` answers like ``actors.jobs.JobDesk``."""
    router = APIRouter(responses=problems.responses(503))

    @router.post(
        "",
        status_code=202,
        openapi_extra=_body_schema(),
        responses={
            202: {"content": {"application/json": {"schema": JOB}}},
            **problems.responses(408, 413, 429),
            **problems.senseless(f"what the question's own route refuses; {USED}"),
        },
    )
    async def submit(request: Request) -> JSONResponse:
        """Start a job of one question, or of up to 4,096. Its id is where to look for it."""
        body = await request.body()
        check_depth(body, max_depth)
        questions = await run_in_threadpool(_questions, body)
        key = request.headers.get("idempotency-key")
        # A job sent again under its key is the same job, even if its first answer was lost.
        job_id = hashlib.sha256(key.encode()).hexdigest()[:32] if key else uuid.uuid4().hex
        job = await run_in_threadpool(desk.submit, job_id, questions)
        if job is None:
            raise Overloaded("too many jobs are waiting")
        return JSONResponse(job, 202, {"Location": f"/v1/jobs/{job_id}"})

    @router.get("", responses={200: {"content": {"application/json": {"schema": JOBS}}}})
    def listed() -> JSONResponse:
        """All jobs that are remembered, newest first, without answers."""
        return JSONResponse({"jobs": desk.list()})

    @router.get("/{job_id}", responses={**_JOB_RESPONSE, **problems.responses(404)})
    def show(job_id: str) -> JSONResponse:
        """State and progress; once it is done, an answer to each question."""
        return JSONResponse(desk.show(job_id))

    @router.delete("/{job_id}", responses={**_JOB_RESPONSE, **problems.responses(404)})
    def cancel(job_id: str) -> JSONResponse:
        """End the job, kill its process if it runs, and forget it; its last state."""
        return JSONResponse(desk.cancel(job_id))

    return router


def _questions(body: bytes) -> list[tuple[str, dict[str, Any], float]]:
    data = read_object(body)
    items = data.get("problems") if "problems" in data else [data]
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_QUESTIONS:
        raise InputError(f"wants a list of 1 to {MAX_QUESTIONS} problems", field="problems")
    if "problems" in data and len(data) > 1:
        raise InputError("stands beside 'problems'", field=min(set(data) - {"problems"}))
    return [_question(item, f"problems[{i}]") for i, item in enumerate(items)]


def _question(item: Any, field: str) -> tuple[str, dict[str, Any], float]:
    if not isinstance(item, dict) or not isinstance(item.get("kind"), str):
        raise InputError("wants an object with 'kind'", field=field)
    if item["kind"] not in REQUESTS.names():
        raise InputError(f"knows no '{item['kind']}'", field=f"{field}.kind")
    body = {name: value for name, value in item.items() if name != "kind"}
    try:
        request = parse_request(item["kind"], json.dumps(body).encode())
    except InputError as error:
        raise InputError(error.message, field=f"{field}.{error.field}") from None
    return item["kind"], body, budget_s(request)


JOB: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "state": {"enum": ["queued", "running", "done", "failed", "cancelled"]},
        "progress": {
            "type": "object",
            "properties": {
                "done": {"type": "integer"},
                "total": {"type": "integer"},
                "running_s": {"type": "number"},
            },
        },
        "created_at": {"type": "number"},
        "started_at": {"type": ["number", "null"]},
        "ended_at": {"type": ["number", "null"]},
        "answers": {"type": "array", "items": {"type": "object"}},
        "reason": {"type": "string"},
    },
    "required": ["id", "state", "progress", "created_at"],
}
JOBS: dict[str, Any] = {
    "type": "object",
    "properties": {"jobs": {"type": "array", "items": JOB}},
    "required": ["jobs"],
}
_JOB_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"schema": JOB}}}
}


def _body_schema() -> dict[str, Any]:
    kind, question = next(iter(REQUESTS.items()))
    one = {
        "type": "object",
        "properties": {"kind": {"enum": REQUESTS.names()}},
        "required": ["kind"],
    }
    many = {
        "type": "object",
        "properties": {
            "problems": {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_QUESTIONS}
        },
        "required": ["problems"],
        "additionalProperties": False,
    }
    example = {"kind": kind, **question.example}
    content = {"application/json": {"schema": {"anyOf": [one, many]}, "example": example}}
    return {
        "parameters": [PARAMETER],
        "requestBody": {"required": True, "content": content},
    }
