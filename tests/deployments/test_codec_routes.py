"""The codec's routes: raw bytes and multipart, problems for everything else."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from actors.codec_pool import pack, unpack
from deployments import problems
from deployments.codec import codec_routes, uploaded
from qcluster.errors import FormatError
from qcluster.q_decompressor import decompress


class Here:
    """A pool that works in this process."""

    def compress(self, data: bytes, options: dict[str, Any]) -> bytes:
        return pack(data, options)

    def decompress(self, blob: bytes, options: dict[str, Any]) -> tuple[bytes, str]:
        return unpack(blob, options)


def post(path: str, **how: Any) -> httpx.Response:
    import asyncio

    app = FastAPI()
    problems.install(app)
    app.include_router(codec_routes(Here()), prefix="/v1")

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://codec") as client:
            return await client.post(path, **how)

    return asyncio.run(ask())


X = np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32)


def npy() -> bytes:
    out = io.BytesIO()
    np.save(out, X)
    return out.getvalue()


def test_raw_bytes_there_and_back() -> None:
    blob = post("/v1/compress?mode=rel_l2&value=0.1", content=npy())
    assert blob.status_code == 200
    back = post("/v1/decompress", content=blob.content)
    assert back.headers["x-tensor-format"] == "npy"
    y = np.load(io.BytesIO(back.content))
    assert np.linalg.norm(X - y) <= 0.1 * np.linalg.norm(X)


def test_multipart_upload() -> None:
    answer = post("/v1/compress", files={"file": ("x.npy", npy())}, data={"note": "hello"})
    assert np.array_equal(decompress(answer.content, max_output_bytes=1 << 20), X)


def test_bare_elements() -> None:
    answer = post("/v1/compress?dtype=F32&shape=30,40", content=X.tobytes())
    assert np.array_equal(decompress(answer.content, max_output_bytes=1 << 20), X)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v1/compress", b"nothing known"),
        ("/v1/compress", b""),
        ("/v1/compress?mode=best", npy()),
        ("/v1/compress?mode=max_abs", npy()),
        ("/v1/compress?mode=max_abs&value=nan", npy()),
        ("/v1/compress?states=9", npy()),
        ("/v1/compress?dtype=F32&shape=2,x", b"1234"),
        ("/v1/compress?dtype=F32&shape=999999999999999999,999999999999999999", b"1234"),
        ("/v1/decompress", b"nothing known"),
        ("/v1/decompress", b""),
        ("/v1/decompress?max_output_bytes=-1", b""),
    ],
)
def test_bad_content_is_a_422(path: str, content: bytes) -> None:
    answer = post(path, content=content)
    assert answer.status_code == 422
    assert answer.json()["detail"]


def test_declared_output_is_limited() -> None:
    blob = post("/v1/compress", content=npy()).content
    answer = post("/v1/decompress?max_output_bytes=100", content=blob)
    assert answer.status_code == 422
    assert "4800 bytes" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"--x\r\n\r\nno file\r\n--x--", "multipart/form-data; boundary=x"),
        (b"abc", "multipart/form-data"),
        (b"", "multipart/form-data; boundary=x"),
    ],
)
def test_multipart_that_holds_no_file(body: bytes, kind: str) -> None:
    with pytest.raises(FormatError, match="multipart"):
        uploaded(body, kind)


def test_multipart_is_binary_safe() -> None:
    content = b"\r\n--y\r\n\x00\xff\r\r\n\n"
    body = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + content
    assert uploaded(body + b"\r\n--x--\r\n", 'multipart/form-data; boundary="x"') == content
