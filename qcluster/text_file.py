"""Text files as others write them: UTF-8 with or without a mark, UTF-16 with one, perhaps gzipped.

Spreadsheets put a byte-order mark before UTF-8, and shells of Windows write UTF-16. Both, and
gzip, are told by a file's first bytes, never by its name.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO, cast

from qcluster.errors import FormatError

__all__ = ["decoded", "read_text"]

_GZIP = b"\x1f\x8b"
_WIDE = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: str | Path) -> str:
    r"""The text of a file, its lines ended by ``\n``.

    Raises FormatError naming the file: not there, a broken archive, no text.
    """
    try:
        with Path(path).open("rb") as raw, decoded(raw, path) as text:
            return text.read()
    except OSError as error:
        raise FormatError(error.strerror or "cannot be read", file=path) from None


@contextlib.contextmanager
def decoded(raw: io.BufferedReader, file: object) -> Iterator[TextIO]:
    r"""The text in an open file or pipe, to be read as it comes; lines end in ``\n``.

    Raises FormatError naming ``file`` for a broken archive and for what is no text, also where that
    shows only while the text is read.
    """
    encoding = "utf-8-sig"
    try:
        packed = raw
        if raw.peek(2)[:2] == _GZIP:
            packed = io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=raw)))
        if packed.peek(2)[:2] in _WIDE:
            encoding = "utf-16"
        text = io.TextIOWrapper(packed, encoding=encoding)
        try:
            yield text
        finally:
            text.detach()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FormatError(f"is not a whole gzip file: {error}", file=file) from None
    except UnicodeError:
        wanted = "UTF-16" if encoding == "utf-16" else "UTF-8"
        raise FormatError(f"is not {wanted} text", file=file) from None
