"""CSV of any origin: separators, decimal commas, comments, blank rows and numbered errors."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcluster.csv_table import decimal_point, read_rows, separator
from qcluster.errors import FormatError


@pytest.mark.parametrize(
    ("line", "mark"),
    [
        ("ts_s,node,power_w\n", ","),
        ("ts_s;node;power_w", ";"),
        ("ts_s\tnode\tpower, W", "\t"),
        ('"a;b;c;d",loss', ","),
        ("0,5;1,5;2,5", ";"),
        ("0,5\t1,5\t2,5", "\t"),
        ("1,2,3", ","),
        ('"0,5";"1,5"', ";"),
        ("alone", ","),
        ("", ","),
    ],
)
def test_what_stands_between_cells(line: str, mark: str) -> None:
    assert separator(line) == mark


@pytest.mark.parametrize(
    ("cell", "text"),
    [("1,5", "1.5"), (" -0,25 ", "-0.25"), (",5", ".5"), ("1,5e-3", "1.5e-3"), ("1.5", "1.5"),
     ("a,b", "a,b"), ("1,000,000", "1,000,000"), ("1,000.5", "1,000.5"), ("", "")],
)  # fmt: skip
def test_only_numbers_get_a_decimal_point(cell: str, text: str) -> None:
    assert decimal_point(cell) == text


def test_rows_keep_the_numbers_of_their_lines() -> None:
    text = '# by hand\n\nid;watts\r\na;1,5\n;\n\n"b;\nc"; 2\nd,5;x\n'
    assert read_rows(text) == [
        (3, ["id", "watts"]), (4, ["a", "1.5"]), (8, ["b;\nc", "2"]), (9, ["d,5", "x"]),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "\n\n", "# only a remark\n", " \n"])
def test_a_text_without_rows_has_none(text: str) -> None:
    assert read_rows(text) == []


def test_a_name_that_begins_with_a_hash_is_no_comment() -> None:
    assert read_rows("#,x\n#f00,1\n") == [(1, ["#", "x"]), (2, ["#f00", "1"])]


@pytest.mark.parametrize(
    ("text", "row"),
    [('a,b\n1,"2\n', 2), ('# x\na,b\n"1"2,3\n', 3), ("a,b\n" + "x" * 200_000, 2)],
)
def test_broken_quotes_name_file_and_row(text: str, row: int) -> None:
    with pytest.raises(FormatError, match=rf"t\.csv, row {row}: is not CSV"):
        read_rows(text, file="t.csv")


def test_nul_bytes_are_no_text() -> None:
    with pytest.raises(FormatError, match=r"t\.csv, row 2: holds NUL bytes"):
        read_rows("a,b\n1,\x002\n", file="t.csv")


CELL = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufeff\u2028\u2029\x85"),
    min_size=1,
).filter(lambda cell: cell.strip() and not cell[0].isspace() and decimal_point(cell) == cell)


@given(
    st.lists(st.lists(CELL, min_size=3, max_size=3), max_size=5),
    st.sampled_from(",;\t"),
)
def test_what_a_program_writes_comes_back(rows: list[list[str]], mark: str) -> None:
    out = io.StringIO()
    csv.writer(out, delimiter=mark).writerows([["id", "node", "watts"], *rows])
    assert [cells for _, cells in read_rows(out.getvalue())] == [["id", "node", "watts"], *rows]
