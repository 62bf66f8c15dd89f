"""``/v1/attention``: safetensors in, safetensors out."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from deployments import problems

__all__ = ["attention_routes"]

_FILE = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"description": "safetensors: out, perhaps bound; metadata: report", "content": _FILE}
}
_ERRORS = {
    **problems.responses(408, 413, 503),
    **problems.senseless("bytes that are no safetensors, or tensors that do not fit together"),
}


def attention_routes(worker: Any) -> APIRouter:
    """The route, around what answers like an ``AttentionWorker``."""
    router = APIRouter(responses=_ERRORS)

    @router.post("/attention", response_class=Response, responses=_ANSWER,
                 openapi_extra={"requestBody": {"required": True, "content": _FILE}})  # fmt: skip
    async def attend(
        request: Request,
        config: str | None = Query(
            None,
            # A URL must fit the proxy's buffer of 16 KiB with every character escaped.
            max_length=1000,
            description="AttentionConfig as JSON; longer ones in the metadata",
        ),
    ) -> Response:
        """Attention over embeddings (and w_q, w_k, w_v, w_o), or over q, k and v."""
        body = await request.body()
        answer = await run_in_threadpool(worker.attend, body, config)
        return Response(answer, media_type="application/octet-stream")

    return router
