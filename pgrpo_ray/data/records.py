"""Read JSON objects from a file with the line on which each begins, and check their fields.

Owns the containers (JSON lines or one JSON array, plain or gzip, or Parquet, told apart by content) and the wording of
errors; knows nothing of problems. Everything unreadable becomes a `DataError` that says what, where and how to fix.
Parsers of one record raise `DataError` without a place; `located` adds file and line.
"""

import ast
import datetime
import difflib
import gzip
import io
import json
import math
import re
import warnings
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pgrpo_ray.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"
_PARQUET_MAGIC = b"PAR1"
_PARQUET_ROWS = 16
"""Rows of a Parquet file in memory at a time: those of code sets may hold megabytes of tests each."""
_BOM = b"\xef\xbb\xbf"
_JSON_NAMES = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "an integer"}


def read_records(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line from 1, object) for each record of the file; blank lines are skipped.

    Of a Parquet file the line is the row from 1, and a column that is null is left out of its object. Raises
    `DataError` for a file that cannot be read, is empty, is not UTF-8, or holds anything but JSON objects.
    """
    file, count = str(path), 0
    try:
        if is_parquet(path):
            for count, record in enumerate(parquet_rows(path), start=1):
                yield count, record
        else:
            with _open(Path(path)) as stream:
                for line, value in _values(stream, file):
                    if not isinstance(value, dict):
                        raise DataError(f"must be a JSON object, not {json_name(value)}. Write one a line.", file, line)
                    count += 1
                    yield line, value
    except OSError as error:
        message = (
            f"cannot be read ({error.strerror or error}). Give the path of a .jsonl, .jsonl.gz, .json or .parquet file."
        )
        raise DataError(message, file) from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"is a damaged gzip file ({error}). Copy or download it again.", file) from error
    if not count:
        raise DataError("holds no records. Check the path, and that the file was written to its end.", file)


def is_parquet(path: str | Path) -> bool:
    """True when the file's first bytes say Parquet; False where it cannot be read, which its reader then says."""
    try:
        with Path(path).open("rb") as stream:
            return stream.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
    except OSError:
        return False


@contextmanager
def open_parquet(path: str | Path) -> Iterator[Any]:
    """Open a Parquet file; whatever shows it to be damaged inside the block is a `DataError`."""
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as table:
            yield table
    except DataError:
        raise
    # Arrow's own, and what its values are to Python: text that is no UTF-8, a day in the year 300,000.
    except (ArrowException, OSError, ValueError, OverflowError, LookupError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"is a damaged Parquet file ({first}). Copy or download it again.", str(path)) from error


def parquet_rows(path: str | Path, columns: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file as objects, without what is null; of `columns`, those that there are.

    Raises `DataError`.
    """
    with open_parquet(path) as table:
        names = None if columns is None else [name for name in table.schema_arrow.names if name in columns]
        for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=names):
            for row in batch.to_pylist():
                yield {key: plain_values(value) for key, value in row.items() if value is not None}


@contextmanager
def located(file: str, line: int) -> Iterator[None]:
    """Give every `DataError` raised inside the place of the record that caused it; too deep a record is one."""
    try:
        yield
    except RecursionError as error:  # of what works through a value that the parser just took
        raise DataError("nests too deeply. Flatten it.", file, line) from error
    except DataError as error:
        if error.file:
            raise
        raise DataError(error.args[0], file, line) from error


def loads(text: str) -> Any:
    """Parse JSON strictly: no duplicate keys, no NaN or Infinity, no lone surrogates. Raises `DataError`."""
    try:
        value = _DECODER.decode(text)
    except DataError:
        raise
    except json.JSONDecodeError as error:
        message = f"is not valid JSON: {error.msg} at column {error.colno}. Write one JSON object a line."
        raise DataError(message) from error
    except RecursionError as error:
        raise DataError("nests too deeply for the JSON parser. Flatten it.") from error
    except ValueError as error:  # such as an integer of more than 4,300 digits
        raise DataError(f"is not usable JSON: {error}") from error
    _refuse_surrogates(value, text)
    return value


def check_keys(record: dict[str, Any], known: Collection[str], where: str = "") -> None:
    """Refuse keys that are not `known`, with the nearest known one; `where` is the dotted path of `record`."""
    for key in record:
        if key not in known:
            raise DataError(f"unknown key {dotted(where, key)!r}. {did_you_mean(key, known)}")


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Return a sentence with the nearest known word, or with a few known ones when none is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    shown = sorted(known)
    return f"Known: {', '.join(shown[:12])}{', ...' if len(shown) > 12 else ''}."


def require(record: dict[str, Any], key: str, kind: type, where: str = "") -> Any:
    """Return `record[key]`, which must be there and of the JSON type `kind`. Raises `DataError`."""
    if key not in record:
        raise DataError(f"{dotted(where, key)!r} is missing. Add it: {_JSON_NAMES[kind]}.")
    value = record[key]
    # bool is a subclass of int: without the second test `true` would pass for a number.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise DataError(f"{dotted(where, key)!r} must be {_JSON_NAMES[kind]}, received {excerpt(value)}.")
    return value


def require_text(record: dict[str, Any], key: str, where: str = "") -> str:
    """Return a string that is not blank. Raises `DataError`."""
    text: str = require(record, key, str, where)
    if not text.strip():
        raise DataError(f"{dotted(where, key)!r} is blank. Write its text.")
    return text


def check_source(source: str, where: str) -> None:
    """Refuse Python source that does not parse: it would make every program fail. Raises `DataError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in somebody's regex is a warning, not a defect
            ast.parse(source)
    except SyntaxError as error:
        raise DataError(f"{where!r} is not valid Python: {error.msg} (its line {error.lineno}). Correct it.") from error
    except (ValueError, RecursionError, MemoryError) as error:  # NUL characters, absurd nesting
        raise DataError(f"{where!r} cannot be parsed as Python ({error}). Correct it.") from error


def json_name(value: Any) -> str:
    """Name the JSON type of `value` for a message."""
    return "null" if value is None else _JSON_NAMES.get(type(value), "a number")


def excerpt(value: Any) -> str:
    """Return `value` as a short piece of text for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def dotted(where: str, key: str) -> str:
    """Join a path and a key."""
    return f"{where}.{key}" if where else key


def _open(path: Path) -> BinaryIO:
    """Open `path` for reading, through gzip when its first bytes say so."""
    stream = path.open("rb")
    if stream.peek(2)[:2] != _GZIP_MAGIC:
        return stream
    stream.close()
    return io.BufferedReader(gzip.open(path, "rb"))


def plain_values(value: Any) -> Any:
    """Return a Parquet value as JSON has it: dates as their ISO text."""
    if isinstance(value, dict):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_values(item) for item in value]
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value


def _values(stream: BinaryIO, file: str) -> Iterator[tuple[int, Any]]:
    """Yield (line, JSON value): the elements of an array when the file's first character is `[`, else one a line."""
    seen_ink = False
    # Lines of bytes end at "\n" alone; str.splitlines would also cut at U+2028, which JSON strings may hold.
    for line, raw in enumerate(stream, start=1):
        raw = raw.removeprefix(_BOM) if line == 1 else raw
        if not raw.strip():
            continue
        if not seen_ink and raw.lstrip().startswith(b"["):
            # Read whole: an element may span lines. Large files come as JSON lines, which stream.
            yield from _array(_decode(raw + stream.read(), file, line), file, line)
            return
        seen_ink = True
        with located(file, line):
            value = loads(_decode(raw, file, line))
        yield line, value


def _array(text: str, file: str, line: int) -> Iterator[tuple[int, Any]]:
    """Yield (line, element) of the JSON array `text`, whose first line is number `line`.

    Elements are decoded one by one, since `json.loads` of the whole would not tell where each of them stands.
    """
    end = text.index("[") + 1
    start = _skip_space(text, end)
    if text[start : start + 1] == "]":
        return
    closed = False
    while not closed:
        line += text.count("\n", end, start)
        with located(file, line):
            value, end = _element(text, start)
        yield line, value
        line += text.count("\n", start, end)
        start = _skip_space(text, end)
        if text[start : start + 1] not in (",", "]"):
            raise DataError("expected `,` or `]` after this element of the array. Correct or complete it.", file, line)
        closed = text[start] == "]"
        line += text.count("\n", end, start)
        end = start + 1
        start = _skip_space(text, end)
    if text[end:].strip():
        raise DataError("text follows the closing `]`. Write one array, or one object a line.", file, line)


def _element(text: str, start: int) -> tuple[Any, int]:
    """Decode the JSON value at `start`; return it and where it ends. Raises `DataError`."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        message = f"the element that begins here is not valid JSON: {error.msg} at column {error.colno}. Correct it."
        raise DataError(message) from error
    except RecursionError as error:
        raise DataError("the element nests too deeply for the JSON parser. Flatten it.") from error
    except ValueError as error:  # CPython refuses integers of more than 4300 digits
        raise DataError(f"the element cannot be read: {error}. Correct it.") from error
    _refuse_surrogates(value, text[start:end])
    return value, end


def _skip_space(text: str, start: int) -> int:
    """Return the index of the first character at or after `start` that is not JSON white space."""
    return _SPACE.match(text, start).end()  # type: ignore[union-attr]


def _decode(raw: bytes, file: str, line: int) -> str:
    """Decode UTF-8 or raise `DataError`."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"is not UTF-8 at byte {error.start}. Give a text file, or save this one as UTF-8.", file, line
        ) from error


def _refuse_surrogates(value: Any, text: str) -> None:
    r"""Refuse strings such as "\ud800" alone: they parse, and then break the first process that encodes them."""
    if "\\ud" not in text.lower():
        return
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError("holds half of a surrogate pair, which is no character. Write the whole one.") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object, refusing a key that stands twice: JSON would silently keep the last."""
    record = dict(pairs)
    if len(record) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise DataError(f"key {twice!r} stands twice in one object. Keep one.")
    return record


def _constant(name: str) -> Any:
    """Refuse NaN and the infinities, which are not JSON."""
    raise DataError(f"{name} is not JSON. Use a number, or a string that the program should print.")


def _finite(text: str) -> float:
    """Refuse numbers such as 1e999: they would become an infinity, which is not JSON."""
    value = float(text)
    if math.isinf(value):
        raise DataError(f"{text} is too large for a number. Use a string that the program should print.")
    return value


_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_finite)
