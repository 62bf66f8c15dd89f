"""``/v1/compress`` and ``/v1/decompress``: raw bytes or a multipart upload in, raw bytes out."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from deployments import problems
from qcluster.errors import FormatError, InputError

__all__ = ["codec_routes", "uploaded"]

BLOB = "application/vnd.qcluster.qct"
MAX_OUTPUT = 2**30
_BODY = {"required": True, "content": {
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    "multipart/form-data": {"schema": {"type": "object", "properties": {
        "file": {"type": "string", "format": "binary"}}}},
}}  # fmt: skip
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_BLOB: dict[int | str, dict[str, Any]] = {200: {"description": "a .qct", "content": {BLOB: _BYTES}}}
_RAW: dict[int | str, dict[str, Any]] = {
    200: {"description": "a file of tensors", "content": {"application/octet-stream": _BYTES}}
}
_ERRORS = {
    **problems.responses(408, 413, 503),
    **problems.senseless("bytes that are no archive, no file of numbers, or not of that shape"),
}


def codec_routes(pool: Any) -> APIRouter:
    """The routes, around what answers like a ``CodecPool``."""
    router = APIRouter(responses=_ERRORS)

    @router.post("/compress", response_class=Response, responses=_BLOB,
                 openapi_extra={"requestBody": _BODY})  # fmt: skip
    async def compress(
        request: Request,
        mode: str = Query("lossless", max_length=20),
        value: float | None = Query(None),
        states: int = Query(8),
        effort: str = Query("dense", max_length=10),
        dtype: str | None = Query(None, max_length=20, description="of bare elements, e.g. BF16"),
        shape: str | None = Query(None, max_length=400, description="of bare elements: 3,4"),
    ) -> Response:
        """A .npy, .npz or .safetensors file, or bare elements, to a .qct blob."""
        data = uploaded(await request.body(), request.headers.get("content-type", ""))
        options = {"mode": mode, "value": value, "config": {"states": states, "effort": effort},
                   "dtype": dtype, "shape": _sides(shape)}  # fmt: skip
        blob = await run_in_threadpool(pool.compress, data, options)
        return Response(blob, media_type=BLOB)

    @router.post("/decompress", response_class=Response, responses=_RAW,
                 openapi_extra={"requestBody": _BODY})  # fmt: skip
    async def decompress(
        request: Request,
        format: str | None = Query(None, max_length=20, description="npy, npz or safetensors"),
        max_output_bytes: int = Query(MAX_OUTPUT, ge=0, le=MAX_OUTPUT),
        hhl: bool = Query(False),
        qsvt: bool = Query(False),
        qft: bool = Query(False),
        lstm: bool = Query(False),
    ) -> Response:
        """A .qct blob to a file of tensors, verified."""
        blob = uploaded(await request.body(), request.headers.get("content-type", ""))
        options = {"format": format, "max_output_bytes": max_output_bytes,
                   "config": {"hhl": hhl, "qsvt": qsvt, "qft": qft, "lstm": lstm}}  # fmt: skip
        data, kind = await run_in_threadpool(pool.decompress, blob, options)
        return Response(data, media_type="application/octet-stream",
                        headers={"X-Tensor-Format": kind})  # fmt: skip

    return router


def _sides(shape: str | None) -> list[int] | None:
    if shape is None:
        return None
    if not re.fullmatch(r"\d{1,18}(,\d{1,18}){0,63}", shape):
        raise InputError(f"wants sides as 3,4, got {shape!r}", field="shape")
    return [int(side) for side in shape.split(",")]


def uploaded(body: bytes, content_type: str) -> bytes:
    """The body, or the first file of a multipart one. Raises FormatError."""
    if not content_type.lower().startswith("multipart/form-data"):
        return body
    found = re.search(r'boundary="?([^";]{1,200})"?', content_type)
    if found is None:
        raise FormatError("multipart without a boundary", field="body")
    mark = b"--" + found.group(1).encode("latin-1", "replace")
    # Parts stand between marks that begin a line; what is before the first is no part.
    for part in (b"\r\n" + body).split(b"\r\n" + mark)[1:]:
        head, blank, content = part.partition(b"\r\n\r\n")
        if blank and b"filename" in head.lower():
            return content
    raise FormatError("multipart without a file", field="body")
