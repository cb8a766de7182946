"""D4, the scan that stops early and looks finished: what saferocks does, and canaries for rocksdict."""

from __future__ import annotations

import random
import shutil
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import rocksdict

import saferocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROWS = [(b"k%05d" % number, b"%05d-" % number * 16) for number in range(10_000)]
KEYS = [key for key, _ in ROWS]
VALUES = [value for _, value in ROWS]
EXPECTED: dict[str, list[Any]] = {
    "items": ROWS,
    "keys": KEYS,
    "values": VALUES,
    "columns": [[(b"", value)] for value in VALUES],
    "entities": [(key, [(b"", value)]) for key, value in ROWS],
}
ALL_BOUNDS: list[dict[str, bytes]] = [{}, {"lower_bound": KEYS[1000], "upper_bound": KEYS[9000]}]
SEEDS = [1, 2, 3, 4]
TOMBSTONES = 500


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw database of one SST file, closed and undamaged."""
    path = tmp_path_factory.mktemp("pristine") / "db"
    with saferocks.open(str(path)) as db:
        for key, value in ROWS:
            db[key] = value
        db.flush()
    return path


@pytest.fixture
def damaged(pristine: Path, tmp_path: Path) -> Callable[[int], str]:
    """Copy the database and flip 16 bytes in the middle of its SST file; a seed says which."""

    def copy(seed: int) -> str:
        path = tmp_path / f"damaged-{seed}"
        shutil.copytree(pristine, path)
        flip_in_the_middle(path, seed)
        return str(path)

    return copy


@pytest.fixture
def damaged_db(damaged: Callable[[int], str]) -> Iterator[saferocks.Rdict]:
    """An entered database with a damaged SST file."""
    with saferocks.open(damaged(0)) as db:
        yield db


@pytest.fixture
def tombstones(db: saferocks.Rdict) -> saferocks.Rdict:
    """A database with a row at either end, and hundreds of deleted ones in between."""
    fill_with_tombstones(db)
    return db


@pytest.fixture
def impatient() -> saferocks.ReadOptions:
    """Read options that give up after ten deleted rows."""
    options = saferocks.ReadOptions()
    options.set_max_skippable_internal_keys(10)
    return options


def flip_in_the_middle(path: Path, seed: int) -> None:
    """Flip 16 bytes in the middle third of the largest SST file."""
    file = max(path.glob("*.sst"), key=lambda each: each.stat().st_size)
    content = bytearray(file.read_bytes())
    at = random.Random(seed).randrange(len(content) // 3, 2 * len(content) // 3)
    content[at : at + 16] = bytes(byte ^ 0xFF for byte in content[at : at + 16])
    file.write_bytes(content)


def fill_with_tombstones(database: Any) -> None:
    """Write rows and delete all but the first and the last."""
    for number in range(TOMBSTONES + 2):
        database[b"k%04d" % number] = b"v"
    for number in range(1, TOMBSTONES + 1):
        del database[b"k%04d" % number]


def read_until_it_ends(scope: saferocks.Scope[Any]) -> tuple[list[Any], Exception | None]:
    """Return the rows of a scan, and the error that ended it, if one did."""
    rows: list[Any] = []
    with scope as scan:
        try:
            for row in scan:
                rows.append(row)
        except Exception as error:
            return rows, error
    return rows, None


def walk_until_it_ends(
    scope: saferocks.Scope[saferocks.RdictIter], backwards: bool
) -> tuple[list[Any], Exception | None]:
    """Return the rows of a cursor, walked as RocksDB's manual shows, and the error that ended the walk."""
    rows: list[Any] = []
    with scope as cursor:
        try:
            (cursor.seek_to_last if backwards else cursor.seek_to_first)()
            while cursor.valid():
                rows.append((cursor.key(), cursor.value()))
                (cursor.prev if backwards else cursor.next)()
        except Exception as error:
            return rows, error
    return rows, None


def was_cut_short(rows: list[Any], error: Exception | None, expected: list[Any]) -> bool:
    """Tell whether a scan gave the first of the expected rows, no others, and said why it stopped."""
    return (
        isinstance(error, saferocks.CorruptionError)
        and str(error).startswith("Corruption: block checksum mismatch")
        and 0 < len(rows) < len(expected)
        and rows == expected[: len(rows)]
    )


# --------------------------------------------------------------------------- corruption


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("source", ["database", "snapshot"])
def test_d04_a_scan_over_damage_raises(damaged: Callable[[int], str], seed: int, source: str) -> None:
    """Each kind of scan, in each direction, yields the rows before a damaged block and raises CorruptionError."""
    wrong = []
    with saferocks.open(damaged(seed)) as db, db.snapshot() as snap:
        reader = snap if source == "snapshot" else db
        for method, backwards, bounds in product(EXPECTED, (False, True), ALL_BOUNDS):
            expected = (EXPECTED[method][1000:9000] if bounds else EXPECTED[method])[:: -1 if backwards else 1]
            rows, error = read_until_it_ends(getattr(reader, method)(backwards, **bounds))
            if not was_cut_short(rows, error, expected):
                wrong.append((method, backwards, bounds, len(rows), error))
    assert wrong == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("source", ["database", "snapshot"])
def test_d04_a_cursor_loop_over_damage_raises(damaged: Callable[[int], str], seed: int, source: str) -> None:
    """A loop of `valid`, `key`, `value` and `next` does not end at a damaged block, it raises CorruptionError."""
    wrong = []
    with saferocks.open(damaged(seed)) as db, db.snapshot() as snap:
        reader = snap if source == "snapshot" else db
        for backwards, bounds in product((False, True), ALL_BOUNDS):
            expected = (ROWS[1000:9000] if bounds else ROWS)[:: -1 if backwards else 1]
            rows, error = walk_until_it_ends(reader.iter(**bounds), backwards)
            if not was_cut_short(rows, error, expected):
                wrong.append((backwards, bounds, len(rows), error))
    assert wrong == []


@pytest.mark.parametrize("seed", SEEDS)
def test_d04_a_cursor_loop_that_asks_only_for_keys_raises(damaged: Callable[[int], str], seed: int) -> None:
    """A loop that takes a missing key for the end raises CorruptionError at a damaged block."""
    keys = []
    with saferocks.open(damaged(seed)) as db, db.iter() as cursor:
        cursor.seek_to_first()
        with pytest.raises(saferocks.CorruptionError, match="checksum mismatch"):
            while (key := cursor.key()) is not None:
                keys.append(key)
                cursor.next()
    assert keys == KEYS[: len(keys)]


@pytest.mark.parametrize("seed", SEEDS)
def test_d04_a_scan_that_starts_in_damage_raises(damaged: Callable[[int], str], seed: int) -> None:
    """Every seek over the file either returns its rows or raises: none comes back empty."""
    with saferocks.open(damaged(seed)) as db:
        failed = 0
        for start in range(0, len(ROWS), 20):
            rows, error = read_until_it_ends(db.items(lower_bound=KEYS[start], upper_bound=KEYS[start][:-1] + b":"))
            if error is None:
                assert rows == ROWS[start : start + 10]
            else:
                assert isinstance(error, saferocks.CorruptionError)
                assert rows == ROWS[start : start + len(rows)]
                failed += 1
    assert failed > 0


@pytest.mark.parametrize("source", ["database", "snapshot"])
def test_d04_a_scan_beside_the_damage_is_whole(damaged_db: saferocks.Rdict, source: str) -> None:
    """Scans within the undamaged first and last third return every row and raise nothing."""
    with damaged_db.snapshot() as snap:
        reader = snap if source == "snapshot" else damaged_db
        before = read_until_it_ends(reader.items(upper_bound=KEYS[3000]))
        after = read_until_it_ends(reader.items(True, lower_bound=KEYS[7000]))
    assert (before, after) == ((ROWS[:3000], None), (ROWS[:6999:-1], None))


@pytest.mark.parametrize("source", ["database", "snapshot"])
def test_d04_a_scan_that_failed_goes_on_failing(damaged_db: saferocks.Rdict, source: str) -> None:
    """A scan that was cut short never looks finished afterwards, by `next` or by a second loop."""
    with damaged_db.snapshot() as snap, (snap if source == "snapshot" else damaged_db).keys() as keys:
        for read in (list, list, next, tuple, next):
            with pytest.raises(saferocks.CorruptionError):
                read(keys)


def test_d04_a_damaged_column_family_raises(path: str) -> None:
    """A scan over a damaged file of a column family raises CorruptionError."""
    with saferocks.open(path) as db:
        users = db.create_column_family("users")
        for key, value in ROWS:
            users[key] = value
        users.flush()
    flip_in_the_middle(Path(path), 0)
    with saferocks.open(path) as db:
        users = db.get_column_family("users")
        rows, error = read_until_it_ends(users.items())
    assert isinstance(error, saferocks.CorruptionError)
    assert rows == ROWS[: len(rows)]


def test_d04_a_damaged_typed_database_raises(path: str) -> None:
    """A scan of typed rows over a damaged file raises CorruptionError."""
    rows = [(number, f"{number:05d}-" * 16) for number in range(10_000)]
    with saferocks.open(path, raw_mode=False) as db:
        for key, value in rows:
            db[key] = value
        db.flush()
    flip_in_the_middle(Path(path), 0)
    with saferocks.open(path, raw_mode=False) as db:
        found, error = read_until_it_ends(db.items())
    assert isinstance(error, saferocks.CorruptionError)
    assert 0 < len(found) < len(rows)
    assert found == rows[: len(found)]


@pytest.mark.parametrize("backwards", [False, True])
def test_d04_canary_a_scan_over_damage_looks_finished(damaged: Callable[[int], str], backwards: bool) -> None:
    """In rocksdict, a scan over a damaged block ends early without an exception."""
    bare = rocksdict.Rdict(damaged(0), rocksdict.Options(raw_mode=True))
    try:
        count = len(list(bare.items(backwards)))
    except Exception:
        count = len(ROWS)
    bare.close()
    assert 0 < count < len(ROWS), "D4 is mended: the second cursor of saferocks' scans (_engine.open_scan) can go"


# --------------------------------------------------------------------------- max_skippable_internal_keys


@pytest.mark.parametrize("method", ["items", "keys", "values", "columns", "entities"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("bounds", [{}, {"lower_bound": b"k0000", "upper_bound": b"k9999"}])
def test_d04_a_scan_that_gives_up_raises(
    tombstones: saferocks.Rdict,
    impatient: saferocks.ReadOptions,
    method: str,
    backwards: bool,
    bounds: dict[str, bytes],
) -> None:
    """A scan that gives up at max_skippable_internal_keys raises IncompleteError after the rows before them."""
    rows, error = read_until_it_ends(getattr(tombstones, method)(backwards, read_opt=impatient, **bounds))
    assert isinstance(error, saferocks.IncompleteError)
    assert len(rows) == 1


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("bounds", [{}, {"lower_bound": b"k0000", "upper_bound": b"k9999"}])
def test_d04_a_cursor_that_gives_up_raises(
    tombstones: saferocks.Rdict, impatient: saferocks.ReadOptions, backwards: bool, bounds: dict[str, bytes]
) -> None:
    """A cursor loop that gives up at max_skippable_internal_keys raises IncompleteError."""
    rows, error = walk_until_it_ends(tombstones.iter(impatient, **bounds), backwards)
    assert isinstance(error, saferocks.IncompleteError)
    assert rows == [(b"k0501" if backwards else b"k0000", b"v")]


def test_d04_patient_scans_see_the_rows_beyond(tombstones: saferocks.Rdict) -> None:
    """Without that option the same scan returns both rows."""
    assert read_until_it_ends(tombstones.keys()) == ([b"k0000", b"k0501"], None)


def test_d04_canary_a_scan_that_gives_up_looks_finished(path: str) -> None:
    """In rocksdict, a scan that gives up at max_skippable_internal_keys ends without an exception."""
    bare = rocksdict.Rdict(path, rocksdict.Options(raw_mode=True))
    fill_with_tombstones(bare)
    options = rocksdict.ReadOptions()
    options.set_max_skippable_internal_keys(10)
    try:
        found = list(bare.keys(read_opt=options))
    except Exception:
        found = []
    bare.close()
    assert found == [b"k0000"], "D4 is mended: the second cursor of saferocks' scans (_engine.open_scan) can go"
