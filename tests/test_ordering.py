"""The order of keys and the bounds of scans, against RocksDB's own comparator and against brute force."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

import saferocks
from saferocks import _ordering
from saferocks._ordering import Bounds

# RocksDB cannot be told apart by NaN, and rocksdict keeps no int beyond what it can encode.
INTS = st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300)
FLOATS = st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, 1.5, -1.5, float("inf"), float("-inf")])
TEXTS = st.text(max_size=4) | st.text("ab\U0010ffff\ud7ff\ue000", max_size=3)
BYTES = st.binary(max_size=4) | st.sampled_from([b"", b"\xff", b"\xff\xff", b"a\xff", b"a"])
TYPED_KEYS = BYTES | TEXTS | INTS | FLOATS | st.booleans()
RAW_KEYS = BYTES
DATABASE = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def same(one: Any, other: Any) -> bool:
    """Tell whether two keys are one: of the same type, too (True == 1 == 1.0, and 0.0 == -0.0)."""
    return identity(one) == identity(other)


def identity(key: Any) -> tuple[str, Any]:
    """Return what distinguishes a key."""
    return type(key).__name__, struct.pack(">d", key) if isinstance(key, float) else key


def distinct(keys: list[Any]) -> list[Any]:
    """Drop repetitions."""
    return list({identity(key): key for key in keys}.values())


@pytest.fixture
def typed(typed_db: saferocks.Rdict) -> saferocks.Rdict:
    """A typed database."""
    return typed_db


def fill(db: saferocks.Rdict, keys: list[Any]) -> None:
    """Leave exactly these keys in a database."""
    with db.keys() as old:
        stale = list(old)
    with db.write_batch() as batch:
        for key in stale:
            batch.delete(key)
        for key in keys:
            batch[key] = b"v"


def keys_of(db: saferocks.Rdict, **arguments: Any) -> list[Any]:
    """Return the keys of a scan."""
    with db.keys(**arguments) as keys:
        return list(keys)


# --------------------------------------------------------------------------- the order

LADDER: list[Any] = [
    b"", b"\x00", b"a", b"a\xff", b"\xff",
    "", "a", "aa", "b", "\x7f", "\x80", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff",
    -(2**63), -256, -255, -1, 0, 1, 255, 256, 2**63 - 1,
    0.0, 5e-324, 1.0, 1.5, 2.0, float("inf"), -0.0, -5e-324, -1.0, -2.0, float("-inf"),
    False, True,
]  # fmt: skip


def test_the_ladder_of_typed_keys(typed: saferocks.Rdict) -> None:
    """Keys at all the edges come in the documented order: by type, then by value, bytes or bits."""
    fill(typed, LADDER[::-1])
    found = keys_of(typed)
    assert [identity(key) for key in found] == [identity(key) for key in LADDER]
    assert [identity(key) for key in sorted(LADDER[20:] + LADDER[:20], key=_ordering.typed_order)] == list(
        map(identity, LADDER)
    )


@DATABASE
@given(st.lists(TYPED_KEYS, max_size=30))
@example([1, 1.0, True, "1", b"1"])
@example([0.0, -0.0])
def test_typed_order_is_the_comparators(typed: saferocks.Rdict, keys: list[Any]) -> None:
    """Keys sorted by typed_order are in the order in which RocksDB returns them, forwards and backwards."""
    keys = distinct(keys)
    fill(typed, keys)
    expected = [identity(key) for key in sorted(keys, key=_ordering.typed_order)]
    assert [identity(key) for key in keys_of(typed)] == expected
    assert [identity(key) for key in keys_of(typed, backwards=True)] == expected[::-1]


@given(st.lists(TYPED_KEYS, max_size=10))
def test_typed_order_is_strict(keys: list[Any]) -> None:
    """Two keys have the same place only if they are the same key."""
    orders = [_ordering.typed_order(key) for key in distinct(keys)]
    assert len(set(orders)) == len(orders)


# --------------------------------------------------------------------------- prefixes


@given(st.binary(max_size=3), st.lists(st.binary(max_size=5), max_size=20))
def test_the_end_of_a_bytes_prefix(prefix: bytes, keys: list[bytes]) -> None:
    """Exactly the keys from a prefix up to its end start with it."""
    end = _ordering.prefix_end(prefix)
    for key in [*keys, *(prefix + key for key in keys)]:
        assert key.startswith(prefix) is (prefix <= key and (end is None or key < end))


@given(TEXTS, st.lists(TEXTS, max_size=20))
@example("a\ud7ff", ["a\ud7ff", "a\ue000", "a\ud7ffz"])
@example("\U0010ffff", ["\U0010ffff", "\U0010ffff\U0010ffff"])
def test_the_end_of_a_text_prefix(prefix: str, keys: list[str]) -> None:
    """Exactly the texts from a prefix up to its end start with it, in the order of their UTF-8 bytes."""
    end = _ordering.prefix_end(prefix)
    for key in [*keys, *(prefix + key for key in keys)]:
        after, before = prefix.encode() <= key.encode(), end is None or key.encode() < end.encode()  # type: ignore[union-attr]
        assert key.startswith(prefix) is (after and before)


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        (b"", None),
        (b"a", b"b"),
        (b"a\xff", b"b"),
        (b"\xff\xff", None),
        (b"a\xff\x00", b"a\xff\x01"),
        ("", None),
        ("a", "b"),
        ("a\U0010ffff", "b"),
        ("\U0010ffff", None),
        ("\ud7ff", "\ue000"),
        ("\x7f", "\x80"),
    ],
)
def test_prefix_ends(prefix: Any, end: Any) -> None:
    """The end of a prefix is the least key after everything that starts with it."""
    assert _ordering.prefix_end(prefix) == end


# --------------------------------------------------------------------------- bounds


def inside(bounds: Bounds, key: Any) -> bool:
    """Tell by brute force whether a key is within bounds."""
    order = _ordering.typed_order if not bounds.raw else lambda each: each
    return (bounds.lower is None or order(key) >= order(bounds.lower)) and (
        bounds.upper is None or order(key) < order(bounds.upper)
    )


def bounds_of(raw: bool) -> st.SearchStrategy[Bounds]:
    """Make bounds."""
    limit = st.none() | (RAW_KEYS if raw else TYPED_KEYS)
    return st.builds(Bounds, limit, limit, st.just(raw))


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@given(data=st.data())
def test_narrowed_is_the_intersection(raw: bool, data: st.DataObject) -> None:
    """A key is within narrowed bounds exactly if it is within both pairs."""
    one, other = data.draw(bounds_of(raw)), data.draw(bounds_of(raw))
    both = one.narrowed(other.lower, other.upper)
    assert both.raw is raw
    for key in data.draw(st.lists(RAW_KEYS if raw else TYPED_KEYS)):
        assert inside(both, key) is (inside(one, key) and inside(other, key))


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@given(data=st.data())
def test_below_and_above(raw: bool, data: st.DataObject) -> None:
    """A key is within bounds exactly if it is neither below nor above them."""
    bounds = data.draw(bounds_of(raw))
    below, above = bounds.below(), bounds.above()
    assert (below is None, above is None) == (bounds.lower is None, bounds.upper is None)
    for key in data.draw(st.lists(RAW_KEYS if raw else TYPED_KEYS)):
        outside = (below is not None and below(key)) or (above is not None and above(key))
        assert outside is not inside(bounds, key)


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@given(data=st.data())
def test_start_is_the_nearer_of_bound_and_key(raw: bool, backwards: bool, data: st.DataObject) -> None:
    """A scan starts at its key or at its bound, whichever leaves out more, and nowhere without either."""
    bounds = data.draw(bounds_of(raw))
    from_key = data.draw(st.none() | (RAW_KEYS if raw else TYPED_KEYS))
    limit = bounds.upper if backwards else bounds.lower
    order = bounds.order
    candidates = [each for each in (limit, from_key) if each is not None]
    start = bounds.start(backwards, from_key)
    if not candidates:
        assert start is None
    else:
        assert same(start, (min if backwards else max)(candidates, key=order))


def expected_keys(keys: list[Any], bounds: Bounds, backwards: bool, from_key: Any) -> list[Any]:
    """Return by brute force what a scan yields."""
    found = [key for key in sorted(keys, key=bounds.order) if inside(bounds, key)]
    if backwards:
        found.reverse()
    if from_key is None:
        return found
    start = bounds.order(from_key)
    return [key for key in found if (bounds.order(key) <= start if backwards else bounds.order(key) >= start)]


def check_scans(db: saferocks.Rdict, raw: bool, data: st.DataObject) -> None:
    """Compare scans of a database, and of a snapshot of it, with brute force."""
    strategy = RAW_KEYS if raw else TYPED_KEYS
    keys = distinct(data.draw(st.lists(strategy, max_size=15)))
    fill(db, keys)
    near = st.sampled_from(keys) | strategy if keys else strategy  # bounds on keys, and between them
    lower, upper, from_key = (data.draw(st.none() | near) for _ in range(3))
    backwards = data.draw(st.booleans())
    expected = list(map(identity, expected_keys(keys, Bounds(lower, upper, raw), backwards, from_key)))
    arguments = {"backwards": backwards, "from_key": from_key, "lower_bound": lower, "upper_bound": upper}
    assert list(map(identity, keys_of(db, **arguments))) == expected
    with db.snapshot() as snap, snap.keys(**arguments) as found:
        assert list(map(identity, found)) == expected
    with db.items(**arguments) as items:
        assert [identity(key) for key, _ in items] == expected
    with db.values(**arguments) as values:
        assert list(values) == [b"v"] * len(expected)
    with db.iter(lower_bound=lower, upper_bound=upper) as cursor:
        walked = []
        (cursor.seek_to_last if backwards else cursor.seek_to_first)()
        while cursor.valid():
            walked.append(identity(cursor.key()))
            (cursor.prev if backwards else cursor.next)()
    assert walked == list(map(identity, expected_keys(keys, Bounds(lower, upper, raw), backwards, None)))


@DATABASE
@given(data=st.data())
def test_raw_scans_keep_to_their_bounds(db: saferocks.Rdict, data: st.DataObject) -> None:
    """Any bounds, start and direction give exactly the keys that brute force finds, in a raw database."""
    check_scans(db, True, data)


@DATABASE
@given(data=st.data())
def test_typed_scans_keep_to_their_bounds(typed: saferocks.Rdict, data: st.DataObject) -> None:
    """Any bounds, start and direction give exactly the keys that brute force finds, in a typed database."""
    check_scans(typed, False, data)


@DATABASE
@given(keys=st.lists(BYTES, max_size=15), prefix=st.binary(max_size=2), backwards=st.booleans())
@example(keys=[b"\xff", b"\xff\xff", b"\xfe"], prefix=b"\xff", backwards=True)
def test_raw_prefixes(db: saferocks.Rdict, keys: list[bytes], prefix: bytes, backwards: bool) -> None:
    """A prefix scan of a raw database yields exactly the keys that start with the prefix."""
    fill(db, keys)
    expected = sorted({key for key in keys if key.startswith(prefix)}, reverse=backwards)
    assert keys_of(db, prefix=prefix, backwards=backwards) == expected


@DATABASE
@given(keys=st.lists(TYPED_KEYS, max_size=15), prefix=TEXTS.filter(bool) | BYTES.filter(bool), backwards=st.booleans())
@example(keys=[b"\xff", b"\xff\xff", "", "a"], prefix=b"\xff", backwards=False)
def test_typed_prefixes(typed: saferocks.Rdict, keys: list[Any], prefix: Any, backwards: bool) -> None:
    """A prefix scan of a typed database yields exactly the keys of the prefix's type that start with it."""
    keys = distinct(keys)
    fill(typed, keys)
    if isinstance(prefix, str) and _ordering.prefix_end(prefix) is None:
        with pytest.raises(ValueError, match="does not narrow a typed scan"):
            typed.keys(prefix=prefix)
        return
    expected = sorted(key for key in keys if type(key) is type(prefix) and key.startswith(prefix))
    assert keys_of(typed, prefix=prefix, backwards=backwards) == (expected[::-1] if backwards else expected)


@pytest.mark.parametrize("name", ["lower_bound", "upper_bound", "prefix", "from_key"])
@pytest.mark.parametrize("key", ["text", 1, 1.5, True, [b"list"], bytearray(b"a")], ids=repr)
def test_keys_of_wrong_types_are_refused(db: saferocks.Rdict, name: str, key: Any) -> None:
    """A bound, prefix or start that a raw database cannot hold is a TypeError that names it, and opens nothing."""
    with pytest.raises(TypeError, match=f"^{name} "):
        db.keys(**{name: key})
    assert db.handles() == ()
