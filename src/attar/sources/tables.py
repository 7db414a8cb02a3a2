"""Read the wanted columns of a table: CSV, TSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from attar.errors import AttarError
from attar.optional import lazy
from attar.sources.lines import LINE_LIMIT, text_lines
from attar.sources.near import near

pyarrow: Any = lazy("pyarrow")
parquet: Any = lazy("pyarrow.parquet")

TableFormat = Literal["csv", "tsv", "jsonl", "parquet"]
PEEK = 100  # JSON lines whose keys are looked at to learn the columns


@dataclass(frozen=True)
class Table:
    """Hold columns of a table.

    Args:
        columns: name -> values, one a row; None where there is none.
        rows: how many rows there are.
    """

    columns: dict[str, list[Any]]
    rows: int


def column_names(path: Path, form: TableFormat) -> list[str]:
    """Return the names of the columns, from the header or the first rows alone.

    Raises:
        AttarError: the file is not what ``form`` says, or has no row.
    """
    if form == "parquet":
        with _parquet_errors(path):
            return [str(name) for name in parquet.read_schema(path).names]
    if form == "jsonl":
        names: dict[str, None] = {}
        for row in itertools.islice(_objects(path), PEEK):
            names.update(dict.fromkeys(row))
        return list(names)
    with _csv_errors(path):
        return _header(path, csv.reader(text_lines(path), delimiter=_delimiter(form)))


def read_table(path: Path, form: TableFormat, wanted: Sequence[str], skip_rows: int = 0) -> Table:
    """Return the wanted columns of a table.

    Args:
        path: the file.
        form: how it is written.
        wanted: names of columns.
        skip_rows: rows just below the header of a CSV or TSV file that are not data.

    Raises:
        AttarError: a column is missing, or the file is damaged; the message says where.
    """
    if form == "parquet":
        check_columns(path, column_names(path, form), wanted)
        with _parquet_errors(path):
            table = parquet.read_table(path, columns=list(wanted))
            return Table({name: table.column(name).to_pylist() for name in wanted}, table.num_rows)
    if form == "jsonl":
        return _read_json(path, wanted)
    if form == "csv":
        return _read_delimited(path, ",", csv.QUOTE_MINIMAL, wanted, skip_rows)
    try:
        return _read_delimited(path, "\t", csv.QUOTE_MINIMAL, wanted, skip_rows)
    except AttarError as quoted:
        # many tab-separated files do not quote: there a quotation mark is a character like any other
        try:
            return _read_delimited(path, "\t", csv.QUOTE_NONE, wanted, skip_rows)
        except AttarError:
            raise quoted from None


def check_columns(path: Path, have: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuse a column that is not there, or is there twice.

    Raises:
        AttarError: with the columns that are there.
    """
    for name in wanted:
        if name not in have:
            raise AttarError(f"{path} has no column '{name}'.{near(name, have, 'Its columns are')}")
        if list(have).count(name) > 1:
            raise AttarError(f"{path} has {list(have).count(name)} columns named '{name}'. Rename all but one.")


def _delimiter(form: str) -> str:
    return "\t" if form == "tsv" else ","


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    header = next((row for row in reader if row), None)
    if header is None:
        raise AttarError(f"{path} has no header row. Its first line must name the columns.")
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise AttarError(
            f"{path} separates its columns by {'tabs' if chr(9) in header[0] else 'semicolons'}, and its format reads "
            "something else. Set format: tsv for tabs, or save it with commas."
        )
    return [name.strip() for name in header]


def _read_delimited(path: Path, delimiter: str, quoting: int, wanted: Sequence[str], skip_rows: int) -> Table:
    with _csv_errors(path):
        reader = csv.reader(text_lines(path), delimiter=delimiter, strict=True, quoting=quoting)  # type: ignore[arg-type]
        header = _header(path, reader)
        check_columns(path, header, wanted)
        places = [header.index(name) for name in wanted]
        columns: list[list[Any]] = [[] for _ in wanted]
        rows = 0
        for row in itertools.islice((row for row in reader if row), skip_rows, None):
            if len(row) != len(header):
                raise AttarError(
                    f"{path}, line {reader.line_num}: the row has {len(row)} values, the header {len(header)}. Correct "
                    "the row; a value that holds the separator or a line end must stand in double quotes."
                )
            rows += 1
            for column, place in zip(columns, places, strict=True):
                column.append(row[place])
    return Table(dict(zip(wanted, columns, strict=True)), rows)


@contextmanager
def _csv_errors(path: Path) -> Iterator[None]:
    limit = csv.field_size_limit(LINE_LIMIT)
    try:
        yield
    except csv.Error as error:
        raise AttarError(
            f"{path} cannot be read as a table: {error}. Look for a double quote that is not closed or not doubled."
        ) from error
    finally:
        csv.field_size_limit(limit)


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise AttarError(f"{path} cannot be read as Parquet: {reason}. Download or write it again.") from error


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of JSON lines, or of one JSON array."""
    lines = text_lines(path) if not _is_array(path) else iter(())
    if _is_array(path):
        yield from _array(path)
        return
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise AttarError(
                f"{path}, line {number}: not JSON ({error}). Each line must hold one object, {{...}}."
            ) from error
        if not isinstance(row, dict):
            raise AttarError(f"{path}, line {number}: a {type(row).__name__}, but each line must hold one object.")
        yield row


def _is_array(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _array(path: Path) -> Iterator[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise AttarError(f"{path} cannot be read as a JSON array: {error}. Correct it, or write JSON lines.") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise AttarError(f"{path}, element {number}: a {type(row).__name__}, but each must be one object.")
        yield row


def _read_json(path: Path, wanted: Sequence[str]) -> Table:
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    have: dict[str, None] = {}
    rows = 0
    for row in _objects(path):
        rows += 1
        have.update(dict.fromkeys(row))
        for name in wanted:
            columns[name].append(row.get(name))
    if not rows:
        raise AttarError(f"{path} holds no rows. Give a file with one JSON object a line.")
    check_columns(path, list(have), wanted)
    return Table(columns, rows)
