"""The HTTP surface: one FastAPI application made from the rooms' requests and the stored plans.

It takes whatever answers like the hub, the store and the solver pool, so it runs under Ray Serve
with actors behind it and in tests with plain objects. Everything blocking runs in threads.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, FastAPI, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles

from deployments import problems, security
from deployments.attention import attention_routes
from deployments.bodies import check_depth, read_object
from deployments.carry_out import apply_report, restore_report
from deployments.codec import codec_routes
from deployments.jobs import job_routes
from deployments.limits import BodyLimits, BodyMiddleware
from deployments.page import UI
from deployments.plan_cache import PlanCache
from deployments.plan_reads import CONDITION, HEADERS, UNCHANGED, PlanReads
from deployments.problems import Overloaded
from deployments.questions import PATIENCE_S, REQUESTS, WARM_UP_S, SolverPool
from deployments.replay import PARAMETER, USED, Replay
from deployments.security import BearerGuard, SecurityHeaders
from deployments.studies import study_routes
from deployments.views import metrics_text, power_history, snapshot_view
from qcluster import __version__
from qcluster.errors import InputError, NotFound, NotReady, QClusterError
from qcluster.explain import explain
from qcluster.json_schema import record_schema
from qcluster.plan_diff import diff_plans
from qcluster.request import Request as Question
from qcluster.request import parse_request

__all__ = ["Services", "create_api"]

PLANNERS = ("routing", "energy", "nvlink", "joint")
MAX_BATCH = 256


@dataclass(frozen=True)
class Services:
    """What the routes talk to."""

    hub: Any
    store: Any
    pool: SolverPool
    jobs: Any = None
    """Answers like a JobDesk; without one there is no ``/v1/jobs``."""
    studies: Any = None
    """Answers like a StudyHost; without one there is no ``/v1/hpo/studies``."""
    attention: Any = None
    """Answers like an AttentionWorker; without one there is no ``/v1/attention``."""
    codec: Any = None
    """Answers like a CodecPool; without one nothing is compressed."""
    limits: BodyLimits = field(default_factory=BodyLimits)
    agents: Any = None
    """Has ``health`` of the nodes' agents."""
    apply: bool = False
    """Whether those carry plans out."""
    token_sha256: str = ""
    """Digest of the token that `/v1` wants; empty lets everybody in."""


def create_api(services: Services) -> FastAPI:
    """The application."""
    app = FastAPI(
        title="qcluster",
        version=__version__,
        summary="Live telemetry in, certified plans out.",
        docs_url=None,  # FastAPI's own loads its scripts from elsewhere
        redoc_url=None,
    )
    app.state.models = {}  # what the questions' schemas refer to
    problems.install(app)
    plans = PlanCache(services.store)
    app.add_middleware(Replay, store=services.store)
    app.add_middleware(BodyMiddleware, limits=services.limits)
    app.add_middleware(BearerGuard, digest=services.token_sha256)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(PlanReads, cache=plans, digest=services.token_sha256)
    app.state.plans = plans
    app.include_router(_page_routes(services, plans))
    app.include_router(_plan_routes(services, plans), prefix="/v1/plans", tags=["plans"])
    app.include_router(_telemetry_routes(services), prefix="/v1/telemetry", tags=["telemetry"])
    for _, question in REQUESTS.items():  # noqa: PERF102 - not a dict
        _add_question(app, services, question)
    _add_batch(app, services)
    if services.jobs is not None:
        routes = job_routes(services.jobs, services.limits.max_depth)
        app.include_router(routes, prefix="/v1/jobs", tags=["jobs"])
    if services.studies is not None:
        routes = study_routes(services.studies, services.limits.max_depth)
        app.include_router(routes, prefix="/v1/hpo/studies", tags=["hpo"])
    if services.attention is not None:
        app.include_router(attention_routes(services.attention), prefix="/v1", tags=["attention"])
    if services.codec is not None:
        app.include_router(codec_routes(services.codec), prefix="/v1", tags=["codec"])
    if UI.is_dir():
        app.mount("/ui", StaticFiles(directory=UI), name="ui")
    security.declare(app, guarded=bool(services.token_sha256))
    return app


def _page_routes(services: Services, plans: PlanCache) -> APIRouter:
    router = APIRouter(tags=["service"])

    @router.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(UI / "index.html")

    @router.get("/docs", include_in_schema=False)
    def docs() -> FileResponse:
        return FileResponse(UI / "api.html")

    @router.get("/healthz")
    def healthz() -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "ok"}

    @router.get("/readyz", responses=problems.responses(503))
    def readyz() -> dict[str, Any]:
        """Whether every planner has a fresh plan; 503 with the alarms otherwise."""
        alarms = {name: view["alarm"] for name, view in plans.all_latest().items()}
        late = [f"{name}: {alarm}" for name, alarm in alarms.items() if alarm]
        if late:
            raise NotReady("; ".join(late))
        return {"status": "ready", "planners": sorted(alarms)}

    @router.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Response:
        """Prometheus text."""
        text = metrics_text(plans.all_latest(), services.hub.health())
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _plan_routes(services: Services, cache: PlanCache) -> APIRouter:
    router = APIRouter(responses=problems.responses(503))
    store = services.store

    async def read(text: Callable[..., bytes | None], *arguments: str) -> bytes | None:
        # Once filled the cache answers from memory; only before that is there anything to wait for.
        return text(*arguments) if cache.filled else await run_in_threadpool(text, *arguments)

    conditional: dict[str, Any] = {
        "response_model": dict[str, Any],
        "openapi_extra": {"parameters": [CONDITION]},
    }
    known = {200: {"headers": HEADERS}, **UNCHANGED}
    one = {**known, **problems.responses(404)}

    @router.get("", responses=known, **conditional)
    async def plans() -> Response:
        """The latest plan of every planner, null where there is none yet."""
        return Response(await read(cache.all_json), media_type="application/json")

    @router.get("/{planner}/latest", responses=one, **conditional)
    async def latest(planner: str) -> Response:
        """The plan that is safe to carry out now, marked when it is stale, and why."""
        text = await read(cache.latest_json, _known(planner))
        if text is None:
            raise NotReady(f"{planner}: {cache.latest(planner)['alarm']}")
        return Response(text, media_type="application/json")

    @router.get("/{planner}/history", responses=problems.responses(404, 422))
    def history(planner: str, limit: int = Query(100, ge=1, le=1000)) -> dict[str, Any]:
        """Summaries of the stored plans, newest first."""
        return {"plans": store.history(_known(planner), limit)}

    @router.get("/{plan_id}/explain", responses=problems.responses(404))
    def explained(plan_id: str) -> dict[str, Any]:
        """Why the plan is as it is: solver, bound, gap, baselines, telemetry."""
        return explain(store.get(plan_id))

    @router.get(
        "/{plan_id}/diff",
        response_model=dict[str, Any],
        responses={**problems.responses(404), **problems.senseless("plans of two planners")},
    )
    def diff(plan_id: str, against: str | None = Query(None, max_length=100)) -> JSONResponse:
        """What the plan changes against its planner's plan before it, or against another."""
        new = store.get(plan_id)
        return JSONResponse(diff_plans(store.get(against or store.before(plan_id)), new))

    def stored(planner: str, plan_id: str) -> Response:
        """One stored plan, as it was made."""
        headers = {"ETag": f'"{plan_id}"'}
        return JSONResponse(_found(store, planner, plan_id), headers=headers)

    router.get("/{planner}/{plan_id}", responses=one, **conditional)(stored)
    _add_carrying_out(router, services, cache)
    return router


def _add_carrying_out(router: APIRouter, services: Services, cache: PlanCache) -> None:
    def apply(planner: str, plan_id: str, dry_run: bool = Query(False)) -> JSONResponse:
        """What carrying the plan out sets: a dry run unless the server was started to apply."""
        current = cache.latest("joint")["plan"] or cache.latest("energy")["plan"]
        wanted = services.apply and not dry_run
        plan = _found(services.store, planner, plan_id)
        return JSONResponse(apply_report(plan, current, services.agents, apply=wanted))

    def restore(planner: str, plan_id: str, dry_run: bool = Query(False)) -> JSONResponse:
        """Undo a plan that was carried out: a dry run unless the server was started to apply.

        Puts back what stood before it. Newer plans are not carried out until one is applied.
        """
        wanted = services.apply and not dry_run
        plan = _found(services.store, planner, plan_id)
        return JSONResponse(restore_report(plan, services.agents, apply=wanted))

    def apply_by_id(plan_id: str, dry_run: bool = Query(False)) -> JSONResponse:
        """The same without the planner's name."""
        return apply(services.store.get(plan_id)["planner"], plan_id, dry_run)

    def restore_by_id(plan_id: str, dry_run: bool = Query(False)) -> JSONResponse:
        """The same without the planner's name."""
        return restore(services.store.get(plan_id)["planner"], plan_id, dry_run)

    conflict: dict[str, Any] = {
        "response_model": dict[str, Any],
        "responses": problems.responses(404, 409, 422),
    }
    router.post("/{plan_id}/apply", **conflict)(apply_by_id)
    router.post("/{plan_id}/restore", **conflict)(restore_by_id)
    router.post("/{planner}/{plan_id}/apply", **conflict)(apply)
    router.post("/{planner}/{plan_id}/restore", **conflict)(restore)


def _known(planner: str) -> str:
    if planner not in PLANNERS:
        raise NotFound(f"no planner '{planner}'; there are: {', '.join(PLANNERS)}")
    return planner


def _found(store: Any, planner: str, plan_id: str) -> dict[str, Any]:
    plan: dict[str, Any] = store.get(plan_id)
    if plan["planner"] != _known(planner):
        raise NotFound(f"no plan '{plan_id}' of {planner}")
    return plan


def _telemetry_routes(services: Services) -> APIRouter:
    from qcluster.telemetry.sources.push import parse_samples

    router = APIRouter(responses=problems.responses(503))

    @router.get("/latest")
    def latest() -> dict[str, Any]:
        """The newest snapshot."""
        snapshot = services.hub.latest()
        if snapshot is None:
            raise NotReady("no telemetry has arrived yet")
        return {
            "snapshot": snapshot_view(snapshot),
            "power_history": power_history(snapshot),
            "health": services.hub.health(),
        }

    @router.post(
        "",
        responses={
            **problems.responses(408, 413),
            **problems.senseless("a document of no kind that is known, an unknown metric or unit"),
        },
        openapi_extra=_samples_body(),
    )
    async def push(request: Request) -> dict[str, int]:
        """Take in samples: a JSON object, a list, or JSON lines."""
        body = await request.body()
        check_depth(body, services.limits.max_depth)
        batches = await run_in_threadpool(parse_samples, body)
        return {"samples": await run_in_threadpool(services.hub.push, batches)}

    return router


def _samples_body() -> dict[str, Any]:
    example = {"ts_s": 1760000000.0, "node": "node0", "gpu": 0, "power_w": 512.0}
    schema = {"type": ["object", "array"], "description": "Or JSON lines, an object in each."}
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def _add_question(app: FastAPI, services: Services, question: type[Question]) -> None:
    async def ask(request: Request) -> Response:
        body = await request.body()
        check_depth(body, services.limits.max_depth)
        parsed = await run_in_threadpool(_parsed, question.kind, body)
        return JSONResponse(await run_in_threadpool(services.pool.run, parsed, body))

    schema = question.model_json_schema(ref_template="#/components/schemas/{model}")
    app.state.models.update(schema.pop("$defs", {}))
    result = record_schema(question.result)
    app.add_api_route(
        question.path,
        ask,
        methods=["POST"],
        name=question.kind,
        summary=question.summary,
        tags=[question.kind.split(".")[0]],
        openapi_extra={
            "parameters": [PARAMETER],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": schema, "example": question.example}},
            },
        },
        responses={
            200: {"content": {"application/json": {"schema": result}}},
            **problems.responses(408, 413, 429, 501, 503),
            **problems.senseless(
                "numbers that describe no problem, such as lengths that differ, indices of what "
                f"is not there, cycles, or more of something than there is room for; {USED}"
            ),
        },
    )


def _parsed(kind: str, body: bytes) -> Question:
    read_object(body)  # refuses what JSON leaves open; the model's own parser names wrong fields
    return parse_request(kind, body)


def _add_batch(app: FastAPI, services: Services) -> None:
    def one(position: int, item: Any) -> dict[str, Any]:
        try:
            if not isinstance(item, dict) or not isinstance(item.get("kind"), str):
                raise InputError("wants an object with 'kind'", field=f"problems[{position}]")
            body = {key: value for key, value in item.items() if key != "kind"}
            encoded = json.dumps(body).encode()
            question = parse_request(item["kind"], encoded)
            # A batch that cannot begin is put off whole; one that has begun waits.
            patience_s = WARM_UP_S if position else PATIENCE_S
            return {"result": services.pool.run(question, encoded, patience_s)}
        except QClusterError as error:
            if position == 0 and isinstance(error, (NotReady, Overloaded)):
                raise
            return {"error": {"detail": str(error), "field": getattr(error, "field", None)}}

    async def batch(request: Request) -> JSONResponse:
        """Up to 256 problems of any kind; each gets a result or an error of its own."""
        body = await request.body()
        check_depth(body, services.limits.max_depth)
        items = _problems(body)
        answers = [await run_in_threadpool(one, i, item) for i, item in enumerate(items)]
        return JSONResponse({"answers": answers})

    kind, question = next(iter(REQUESTS.items()))
    example = {"problems": [{"kind": kind, **question.example}]}
    app.add_api_route(
        "/v1/plans:batch",
        batch,
        methods=["POST"],
        tags=["plans"],
        openapi_extra={
            "parameters": [PARAMETER],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _batch_schema(), "example": example}},
            },
        },
        responses={
            **problems.responses(408, 413, 429, 503),
            **problems.senseless(USED),
        },
    )


def _problems(body: bytes) -> list[Any]:
    items = read_object(body).get("problems")
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_BATCH:
        raise InputError(f"wants a list of 1 to {MAX_BATCH} problems", field="problems")
    return items


def _batch_schema() -> dict[str, Any]:
    kinds = ", ".join(REQUESTS.names())
    # Whatever an item is, it has an answer of its own, so none of them is an error of the whole.
    item = {"description": f"An object with 'kind', one of {kinds}, and that question's fields."}
    problems_schema = {"type": "array", "items": item, "minItems": 1, "maxItems": MAX_BATCH}
    return {
        "type": "object",
        "properties": {"problems": problems_schema},
        "required": ["problems"],
    }
