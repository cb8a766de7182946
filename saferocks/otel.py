"""Metrics for OpenTelemetry: the same figures as `saferocks.metrics`, as observable instruments.

Needs opentelemetry-api: `pip install 'saferocks[otel]'`. OpenTelemetry has no observable histogram; so
the times for which handles were held are three counters, `saferocks.handle.held.count`, `.sum` and
`.bucket`, the last with the attribute `le`, an upper bound in seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

try:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "opentelemetry":
        raise
    raise ModuleNotFoundError(
        "saferocks.otel needs opentelemetry-api; install it by: pip install 'saferocks[otel]'", name=error.name
    ) from None

from saferocks import _figures, _totals
from saferocks._metrics import HANDLE_LABELS, HELD_OTEL, HELD_TEXT, METRICS, Sample, held_of

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

    from saferocks._figures import Figures
    from saferocks._metrics import Labels

__all__ = ["instrument"]

_BOUNDS = (*map(str, _totals.BOUNDS), "+Inf")


class _Shared(threading.local):
    """The figures of one collection, which asks for each instrument by itself.

    A collection runs in one thread from beginning to end, and asks no instrument twice. So figures are
    taken anew whenever a thread asks for an instrument again, and what one collection tells is all of
    one copy of the registry.
    """

    def __init__(self) -> None:
        self.figures: Figures | None = None
        self.asked: set[str] = set()

    def for_instrument(self, name: str) -> Figures:
        """Return the figures of the collection that asks for this instrument."""
        if self.figures is None or name in self.asked:
            self.figures = _figures.reckon()
            self.asked.clear()
        self.asked.add(name)
        return self.figures


def instrument(meter_provider: MeterProvider | None = None) -> None:
    """Make the instruments, which tell the figures of this process at each collection.

    Args:
        meter_provider: Who is to have them; the global one if left out.

    Raises:
        TypeError: If that is no meter provider.

    Example:
        >>> from opentelemetry.sdk.metrics import MeterProvider
        >>> from saferocks import otel
        >>> otel.instrument(MeterProvider())
    """
    provider = get_meter_provider() if meter_provider is None else meter_provider
    if not isinstance(provider, MeterProvider):
        raise TypeError(f"meter_provider is {provider!r}; give a MeterProvider of opentelemetry, or leave it out")
    _totals.begin()
    meter, shared = provider.get_meter("saferocks"), _Shared()
    for metric in METRICS:
        create = meter.create_observable_counter if metric.type == "counter" else meter.create_observable_gauge
        observe = _observer(shared, metric.otel, metric.labels, metric.samples)
        create(metric.otel, [observe], metric.unit, metric.text)
    _create_held(meter, shared)


def _create_held(meter: Meter, shared: _Shared) -> None:
    for part, unit, labels, samples in (
        ("count", "{handle}", HANDLE_LABELS, _held_counts),
        ("sum", "s", HANDLE_LABELS, _held_sums),
        ("bucket", "{handle}", (*HANDLE_LABELS, "le"), _held_buckets),
    ):
        name = f"{HELD_OTEL}.{part}"
        meter.create_observable_counter(name, [_observer(shared, name, labels, samples)], unit, HELD_TEXT)


def _observer(
    shared: _Shared, name: str, labels: Labels, samples: Callable[[Figures], Iterable[Sample]]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterator[Observation]:
        for values, value in samples(shared.for_instrument(name)):
            attributes: dict[str, Any] = dict(zip(labels, values, strict=True))
            yield Observation(value, attributes)

    return observe


def _held_counts(figures: Figures) -> Iterator[Sample]:
    return ((labels, held.count) for labels, held in held_of(figures))


def _held_sums(figures: Figures) -> Iterator[Sample]:
    return ((labels, held.seconds) for labels, held in held_of(figures))


def _held_buckets(figures: Figures) -> Iterator[Sample]:
    for labels, held in held_of(figures):
        for bound, count in zip(_BOUNDS, held.buckets, strict=True):
            yield (*labels, bound), count
