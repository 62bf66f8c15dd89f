"""Files as columns of text: CSV of any origin, squared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qcluster.csv_table import read_rows
from qcluster.errors import FormatError
from qcluster.telemetry.sources.replay.smi import is_smi_log, smi_columns
from qcluster.text_file import read_text

__all__ = ["Cells", "csv_cells"]


@dataclass(frozen=True)
class Cells:
    """``columns`` by name, all of one length, and the number of each row in its file, (rows,)."""

    columns: Mapping[str, tuple[str, ...]]
    rows: Sequence[int]


def csv_cells(path: Path) -> Cells:
    """The columns of a CSV file, the log of nvidia-smi under our names.

    Raises FormatError naming the row that is too short or too long.
    """
    (_, first), *table = read_rows(read_text(path), file=path) or [(1, [])]
    head = [name.strip() for name in first]
    is_log = is_smi_log(head)
    if is_log:  # begun anew, or with messages of the driver between
        whole = (line for line in table if len(line[1]) == len(head))
        table = [line for line in whole if line[1][0].strip() != head[0]]
    for number, row in table:
        if len(row) != len(head):
            raise FormatError(f"wants {len(head)} cells, got {len(row)}", file=path, row=number)
    if not table:
        raise FormatError("holds no rows", file=path)
    numbers = [number for number, _ in table]
    texts = zip(*(row for _, row in table), strict=True)
    columns = {
        name: tuple(map(str.strip, column)) for name, column in zip(head, texts, strict=True)
    }
    if len(columns) != len(head):
        raise FormatError("a column stands twice", file=path, row=1)
    return Cells(smi_columns(columns, path, rows=numbers) if is_log else columns, numbers)
