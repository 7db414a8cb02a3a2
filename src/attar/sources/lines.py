"""Read text files line by line, and refuse at once what is no text."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from attar.errors import AttarError

CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")  # refused in the first line; a text below may quote one
LINE_LIMIT = 10 << 20  # bytes; a longer line is a damaged file or no table at all


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, line ends kept.

    Args:
        path: the file; a UTF-8 byte order mark is left out.

    Raises:
        AttarError: the file is binary, not UTF-8, or has a line over 10 MiB; the message says where.
    """
    offset = number = 0
    with path.open("rb") as handle:
        while line := handle.readline(LINE_LIMIT + 1):
            number += 1
            if number == 1:
                _check_begin(path, line)
            if len(line) > LINE_LIMIT:
                raise AttarError(
                    f"{path}, line {number}: the line is longer than {LINE_LIMIT} bytes. No example is that long: "
                    "look for a missing line end, or choose the right format."
                )
            if b"\0" in line or (number == 1 and CONTROL.search(line)):
                raise AttarError(
                    f"{path}, line {number}: control characters, so this is a binary file. Give a text file, or "
                    "set format to what it is."
                )
            text = _decoded(path, line, number, offset)
            offset += len(line)
            yield text.removeprefix("\ufeff") if number == 1 else text


def _check_begin(path: Path, line: bytes) -> None:
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise AttarError(f"{path} is written in UTF-16, and UTF-8 is read. Run: iconv -f UTF-16 -t UTF-8 FILE > NEW")
    if line.startswith(b"\x1f\x8b"):
        raise AttarError(f"{path} is compressed with gzip, and plain text is read. Run: gunzip FILE.gz")
    if line.startswith(b"PAR1"):
        raise AttarError(f"{path} is a Parquet file. Set format: parquet")
    if line.startswith(b"PK\x03\x04"):
        raise AttarError(f"{path} is a zip or Excel file, and plain text is read. Unpack it, or export it as CSV.")


def _decoded(path: Path, line: bytes, number: int, offset: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        place = offset + error.start
        raise AttarError(
            f"{path}, line {number}: byte {place} ({line[error.start]:#04x}) is not UTF-8. If it is Latin-1, run: "
            "iconv -f LATIN1 -t UTF-8 FILE > NEW"
        ) from error
