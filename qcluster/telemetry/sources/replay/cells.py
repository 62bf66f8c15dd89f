"""Files as columns of text: CSV of any origin, unpacked and squared."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from qcluster.errors import FormatError
from qcluster.telemetry.sources.replay.smi import is_smi_log, smi_columns

__all__ = ["Cells", "csv_cells", "open_text"]

Cells = Mapping[str, tuple[str, ...]]
"""Column name to its cells, all columns of one length."""


def open_text(path: Path) -> TextIO:
    """A text file, unpacked if its name ends in .gz.

    Raises FormatError when it cannot be opened; one that breaks off shows while reading.
    """
    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if path.name.lower().endswith(".gz") else raw
        return io.StringIO(data.decode("utf-8-sig"), newline="")
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(f"cannot be read: {error}", file=path) from None
    except UnicodeDecodeError:
        raise FormatError("is not UTF-8", file=path) from None


def csv_cells(path: Path) -> Cells:
    """The columns of a CSV file, the log of nvidia-smi under our names.

    Raises FormatError naming the row that is too short or too long.
    """
    with open_text(path) as file:
        reader = csv.reader(file)
        try:
            head = [name.strip() for name in next(reader, [])]
            rows = [row for row in reader if row]
        except csv.Error as error:
            raise FormatError(str(error), file=path, row=reader.line_num) from None
    is_log = is_smi_log(head)
    if is_log:  # begun anew, or with messages of the driver between
        rows = [row for row in rows if len(row) == len(head) and row[0].strip() != head[0]]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(head):
            raise FormatError(f"wants {len(head)} cells, got {len(row)}", file=path, row=number)
    if not rows:
        raise FormatError("holds no rows", file=path)
    cells = dict(zip(head, zip(*rows, strict=True), strict=True))
    if len(cells) != len(head):
        raise FormatError("a column stands twice", file=path, row=1)
    return smi_columns(cells, path) if is_log else cells
