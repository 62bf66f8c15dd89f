"""A load generator on plain sockets: ``load.py PORT PATH CONNECTIONS SECONDS`` prints requests/s.

A client library would be slower than the servers that it is to compare.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


async def one(port: int, request: bytes, ends: float) -> int:
    """Requests answered with 200 over one kept-alive connection until the time is over."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answered = 0
    while time.monotonic() < ends:
        writer.write(request)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            # A proxy that reloads closes what was idle; a client asks again.
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            continue
        found = _LENGTH.search(head)
        if not head.startswith(b"HTTP/1.1 200") or found is None:
            raise SystemExit(head.decode())
        await reader.readexactly(int(found[1]))
        answered += 1
    writer.close()
    return answered


async def main() -> None:
    """Run all connections at once."""
    port, path, connections, seconds = sys.argv[1:]
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    start = time.monotonic()
    ends = start + float(seconds)
    counts = await asyncio.gather(*(one(int(port), request, ends) for _ in range(int(connections))))
    print(sum(counts) / (time.monotonic() - start))


asyncio.run(main())
