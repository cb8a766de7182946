"""`saferocks scan`: the rows of a column family, one a line, whatever they hold."""

from __future__ import annotations

import base64
import itertools
import json
import math
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from saferocks import _terminal
from saferocks._options_file import read_options_file
from saferocks._shadow import Pickled, open_unchanged
from saferocks._shadow_files import Manner
from saferocks._text import parse, parse_bytes, printable, printable_bytes
from saferocks.errors import ColumnFamilyNotFoundError, CorruptionError, InvalidArgumentError, IOFailedError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from saferocks._database import Rdict
    from saferocks._shadow import Reading

_DEFAULT = "default"


def run(options: argparse.Namespace) -> int:
    """Write the rows that are asked for."""
    with ExitStack() as stack:
        reading = _open(options, stack)
        name = _DEFAULT if options.column_family is None else options.column_family
        family = _chosen(reading.families, name)
        raw = family._raw
        prefix = _key("--prefix", options.prefix, options.key_type, raw)
        start = _key("--from", options.start, options.key_type, raw)
        if not raw and _has_time_to_live(options.path, name):
            rows: Any = family.keys(options.reverse, start, prefix=prefix)
        else:
            rows = family.entities(options.reverse, start, prefix=prefix)
        try:
            with rows as found:
                for row in itertools.islice(found, options.limit):
                    _terminal.say(_as_json(row) if options.json else _as_text(row, raw))
        except IOFailedError as error:  # the database is open: this is no mistake of whoever asks for it
            raise CorruptionError(str(error), code=error.code) from error
    return 0


def _open(options: argparse.Namespace, stack: ExitStack) -> Reading:
    """Open the database; not without a word where RocksDB would leave out rows after damage in a log."""
    manner = Manner.TOLERANT if options.damaged else Manner.STRICT
    try:
        return stack.enter_context(open_unchanged(options.path, manner, elsewhere=options.db_path))
    except (CorruptionError, InvalidArgumentError) as error:
        if options.damaged:
            raise
        text = f"{str(error).splitlines()[0]}; --damaged shows what can be read"
        raise type(error)(text, code=error.code, subcode=error.subcode) from error


def _has_time_to_live(path: str, name: str) -> bool:
    """Tell whether four bytes of time end each value, which rocksdict takes for a part of it in a typed database."""
    factory = read_options_file(path).get(("CFOptions", name), {}).get("compaction_filter_factory", "")
    return "TtlCompactionFilterFactory" in factory


def _chosen(families: Mapping[str, Rdict], name: str) -> Rdict:
    if name not in families:
        known = ", ".join(map(printable, families))
        raise ColumnFamilyNotFoundError(f"there is no column family '{printable(name)}'; there are {known}")
    return families[name]


def _key(option: str, text: str | None, kind: str | None, raw: bool) -> Any:
    """Read a key as it was written on the command line."""
    if raw and kind not in (None, "bytes"):
        raise ValueError(f"--key-type is {kind}, but this database holds raw bytes; leave it out")
    if text is None:
        return None
    try:
        return _KEYS["bytes" if raw else kind or "str"](text)
    except UnicodeEncodeError:
        raise ValueError(rf"{option} is not UTF-8; write such bytes as \xNN") from None
    except ValueError as error:
        if kind in (None, "bytes", "str"):
            raise ValueError(f"{option}: {error}") from None
        raise ValueError(f"{option} is {text!r}, which is no {kind}") from None


def _text_key(text: str) -> str:
    text.encode()  # no surrogates
    return parse(text)


def _bool_key(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()] if text.lower() in ("true", "false") else _no_bool()


def _no_bool() -> bool:
    raise ValueError


def _int_key(text: str) -> int:
    return int(text, 16 if text.lstrip("+-").lower().startswith("0x") else 10)


_KEYS: dict[str, Any] = {"bytes": parse_bytes, "str": _text_key, "int": _int_key, "float": float, "bool": _bool_key}


def _as_text(row: Any, raw: bool) -> str:
    """Write a row for people: the key, then its value, or each wide column with its name."""
    if not isinstance(row, tuple):
        return f"{_shown(row, raw)}\t<value with a time to live>"
    key, columns = row
    if _is_plain(columns):
        return f"{_shown(key, raw)}\t{_shown(columns[0][1], raw)}"
    return "\t".join((_shown(key, raw), *(f"{_shown(name, raw)}={_shown(value, raw)}" for name, value in columns)))


def _is_plain(columns: Any) -> bool:
    """Tell whether a row is a plain value, which RocksDB gives as the one column without a name."""
    return len(columns) == 1 and not columns[0][0]


def _shown(value: Any, raw: bool) -> str:
    """Write a key or value for people: raw bytes as they are, typed ones so that their type shows."""
    if isinstance(value, bytes):
        return printable_bytes(value) if raw else f'b"{_quoted(printable_bytes(value))}"'
    if isinstance(value, str):
        return f'"{_quoted(printable(value))}"'
    if isinstance(value, int) and value.bit_length() > _LONGEST_DECIMAL:
        return hex(value)
    return f"<pickle of {value.size} bytes>" if isinstance(value, Pickled) else repr(value)


#: Bits of a number that is written in decimal: of many more Python refuses to, for the time that it takes.
_LONGEST_DECIMAL = 2000


def _quoted(text: str) -> str:
    return text.replace('"', '\\"')


def _as_json(row: Any) -> str:
    if not isinstance(row, tuple):
        fields = {**_fields("key", row), "value": None, "value_type": "with_ttl"}
    elif _is_plain(row[1]):
        fields = {**_fields("key", row[0]), **_fields("value", row[1][0][1])}
    else:
        columns = [{**_fields("name", name), **_fields("value", value)} for name, value in row[1]]
        fields = {**_fields("key", row[0]), "columns": columns}
    return json.dumps(fields).replace("\x7f", "\\u007f")  # the one control character that JSON leaves as it is


def _fields(name: str, value: Any) -> dict[str, Any]:
    """Return what is written and its type; bytes that are no text are in base64, which is their type then."""
    if isinstance(value, bytes):
        try:
            return {name: value.decode(), f"{name}_type": "bytes"}
        except UnicodeDecodeError:
            return {name: base64.b64encode(value).decode("ascii"), f"{name}_type": "base64"}
    if isinstance(value, Pickled):
        return {name: None, f"{name}_type": "pickle", f"{name}_bytes": value.size}
    if isinstance(value, int) and value.bit_length() > _LONGEST_DECIMAL:
        return {name: hex(value), f"{name}_type": "int"}
    if isinstance(value, float) and not math.isfinite(value):
        return {name: repr(value), f"{name}_type": "float"}
    return {name: value, f"{name}_type": type(value).__name__}
