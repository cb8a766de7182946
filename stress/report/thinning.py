"""Thins a series for drawing: a night has more samples than a chart has pixels."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: A bucket keeps its lowest sample, its highest, and one that is missing.
_KEPT_PER_BUCKET = 3
_ENDS = 2
FEWEST = _KEPT_PER_BUCKET + _ENDS


def kept_indices(values: Sequence[float | None], most: int) -> list[int]:
    """Choose which samples are drawn.

    Args:
        values: The samples in order; None for one that is missing.
        most: The most to keep; at least `FEWEST`.

    Returns:
        Ascending indices: the first sample, the last, and of each bucket the lowest, the highest
        and the first that is missing, so that neither a spike nor a gap is lost. All of them, if
        there are no more than `most`.
    """
    if len(values) <= most:
        return list(range(len(values)))
    buckets = (most - _ENDS) // _KEPT_PER_BUCKET
    edges = [index * len(values) // buckets for index in range(buckets + 1)]
    kept = {0, len(values) - 1}
    for start, end in pairwise(edges):
        kept.update(_of_bucket(values, start, end))
    return sorted(kept)


def kept_dots(values: Sequence[float | None], most: int) -> list[int]:
    """Choose which samples are drawn as dots: half of them as for a line, half evenly, to fill the cloud."""
    if len(values) <= most:
        return list(range(len(values)))
    half = most // 2
    return sorted({*kept_indices(values, half), *(index * len(values) // half for index in range(half))})


def _of_bucket(values: Sequence[float | None], start: int, end: int) -> Iterator[int]:
    present = [(value, index) for index in range(start, end) if (value := values[index]) is not None]
    if present:
        yield min(present)[1]
        yield max(present)[1]
    missing = next((index for index in range(start, end) if values[index] is None), None)
    if missing is not None:
        yield missing
