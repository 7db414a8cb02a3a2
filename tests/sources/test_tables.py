"""Tables: what is read, and what each damaged file is told."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from attar.errors import AttarError
from attar.sources import lines
from attar.sources.tables import TableFormat, column_names, read_table


def write(folder: Path, content: bytes | str) -> Path:
    path = folder / "table"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "form"),
    [
        ('text,stars\n"a, ""b""\nc",1\n\nd,2', "csv"),
        ('\ufefftext , stars\r\n"a, ""b""\nc",1\r\nd,2\r\n', "csv"),
        ('text\tstars\n"a, ""b""\nc"\t1\nd\t2\n', "tsv"),
        ('{"text": "a, \\"b\\"\\nc", "stars": "1"}\n\n{"stars": "2", "text": "d", "more": null}', "jsonl"),
        ('[{"text": "a, \\"b\\"\\nc", "stars": "1"}, {"stars": "2", "text": "d"}]', "jsonl"),
    ],
)
def test_every_text_format_gives_the_same_columns(tmp_path: Path, content: str, form: TableFormat) -> None:
    path = write(tmp_path, content)
    table = read_table(path, form, ["stars", "text"])
    assert table.columns == {"stars": ["1", "2"], "text": ['a, "b"\nc', "d"]}
    assert table.rows == 2
    assert set(column_names(path, form)) >= {"text", "stars"}


def test_parquet_gives_columns_with_their_types(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet.brotli"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None], "stars": [1, 2]}), path, compression="brotli")
    assert column_names(path, "parquet") == ["text", "stars"]
    assert read_table(path, "parquet", ["text", "stars"]).columns == {"text": ["a", None], "stars": [1, 2]}
    with pytest.raises(AttarError, match=r"no column 'txt'\. Did you mean 'text'"):
        read_table(path, "parquet", ["txt"])
    path.write_bytes(path.read_bytes()[:-20])
    for read in (lambda: read_table(path, "parquet", ["text"]), lambda: column_names(path, "parquet")):
        with pytest.raises(AttarError, match="cannot be read as Parquet"):
            read()


def test_rows_below_the_header_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, "Category\tText\nd\tstring\nclass\t\n\nearn\ta b\nacq\tc\n")
    assert read_table(path, "tsv", ["Text"], skip_rows=2).columns == {"Text": ["a b", "c"]}


def test_tab_separated_files_without_quoting_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, 'text\tstars\n"good" shirt\t1\nan open " mark\t2\n"never closed\t2\n')
    assert read_table(path, "tsv", ["text"]).columns["text"] == ['"good" shirt', 'an open " mark', '"never closed']


@pytest.mark.parametrize(
    ("content", "form", "said"),
    [
        (b"", "csv", "has no header row"),
        (b"text,stars\na,1\nb\n", "csv", "line 3: the row has 1 values, the header 2"),
        (b"text,stars\na,1,2\n", "csv", "line 2: the row has 3 values, the header 2"),
        (b'text,stars\n"a,1\nb,2\n', "csv", "a double quote that is not closed"),
        (b'text,stars\n"a"b,1\n', "csv", "cannot be read as a table"),
        (b"text,stars,text\na,1,2\n", "csv", "has 2 columns named 'text'"),
        (b"text,rating\na,1\n", "csv", "no column 'stars'. Its columns are: rating, text"),
        (b"text\trating\na\t1\n", "tsv", "no column 'stars'"),
        (b"text,stars\na,\xe9\n", "csv", "line 2: byte 13 (0xe9) is not UTF-8"),
        ("text,stars\na,1\n".encode("utf-16"), "csv", "UTF-16"),
        (b"text,stars\na\x00,1\n", "csv", "line 2: control characters, so this is a binary file"),
        (bytes(range(1, 256)) * 20, "csv", "line 1: control characters"),
        (b"text;stars\na;1\n", "csv", "separates its columns by semicolons"),
        (b"text\tstars\na\t1\n", "csv", "Set format: tsv"),
        (b"\x1f\x8b\x08\x00", "csv", "compressed with gzip"),
        (b"PAR1....", "csv", "Set format: parquet"),
        (b"PK\x03\x04....", "csv", "zip or Excel"),
        (b'{"text": "a", "stars": 1}\n{"text": \n', "jsonl", "line 2: not JSON"),
        (b'{"text": "a", "stars": 1}\n[1]\n', "jsonl", "line 2: a list"),
        (b'[{"text": "a"}, 3]', "jsonl", "element 2: a int"),
        (b'[{"text": "a"}', "jsonl", "cannot be read as a JSON array"),
        (b"\n", "jsonl", "holds no rows"),
        (b'{"text": "a"}\n', "jsonl", "no column 'stars'"),
        (b"[" * 100_000, "jsonl", "cannot be read as a JSON array"),
        (b"PAR1 no parquet PAR1", "parquet", "cannot be read as Parquet"),
    ],
)
def test_a_damaged_table_says_where_and_what(tmp_path: Path, content: bytes, form: TableFormat, said: str) -> None:
    with pytest.raises(AttarError) as caught:
        read_table(write(tmp_path, content), form, ["text", "stars"])
    assert said in str(caught.value)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_an_endless_line_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: TableFormat
) -> None:
    monkeypatch.setattr(lines, "LINE_LIMIT", 1000)
    begin = "text,stars\n" if form == "csv" else json.dumps({"text": "a", "stars": 1}) + "\n"
    path = write(tmp_path, begin + "x" * 2000)
    with pytest.raises(AttarError, match="line 2: the line is longer than 1000 bytes"):
        read_table(path, form, ["text", "stars"])
