"""Metrics for Prometheus: what is open, for how long, and what RocksDB holds for it.

Needs prometheus-client: `pip install 'saferocks[prometheus]'`. All figures of one scrape are derived
from one copy of the registry, so that no two of them disagree. What each means is told in
docs/observability.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from prometheus_client import registry
    from prometheus_client.metrics_core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric as Family,
    )
    from prometheus_client.utils import floatToGoString
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "prometheus_client":
        raise
    raise ModuleNotFoundError(
        "saferocks.metrics needs prometheus-client; install it by: pip install 'saferocks[prometheus]'", name=error.name
    ) from None

from saferocks import _figures, _totals
from saferocks._metrics import HANDLE_LABELS, HELD_NAME, HELD_TEXT, METRICS, held_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from saferocks._figures import Figures
    from saferocks._metrics import Metric
    from saferocks._totals import Held

__all__ = ["Collector", "register"]


class Collector(registry.Collector):
    """Collects the figures of this process, at each scrape anew.

    Releases are counted from when the first collector was made, or OpenTelemetry was set up, on. It is for the
    process that it is in: of the processes of a pre-forking server each has figures of its own.

    Example:
        >>> from prometheus_client import CollectorRegistry, generate_latest
        >>> from saferocks import metrics
        >>> registry = CollectorRegistry()
        >>> registry.register(metrics.Collector())
        >>> b"saferocks_open_handles" in generate_latest(registry)
        True
    """

    def __init__(self) -> None:
        _totals.begin()

    def collect(self) -> Iterator[Family]:
        """Return the metrics with the figures of this moment."""
        figures = _figures.reckon()
        for metric in METRICS:
            yield _family(metric, figures)
        yield _held(figures)

    def describe(self) -> Iterator[Family]:
        """Return the metrics without figures, by which a registry knows their names."""
        for metric in METRICS:
            yield _empty(metric)
        yield HistogramMetricFamily(HELD_NAME, HELD_TEXT, labels=HANDLE_LABELS)


def register(to: registry.CollectorRegistry = registry.REGISTRY) -> Collector:
    """Add these metrics to those that are scraped.

    Args:
        to: A registry of prometheus-client; its default one if left out.

    Returns:
        The collector, by which the registry can forget it, with `registry.unregister(collector)`.

    Raises:
        ValueError: If the registry has it already.

    Example:
        >>> from prometheus_client import CollectorRegistry
        >>> from saferocks import metrics
        >>> collector = metrics.register(CollectorRegistry())
    """
    if not isinstance(to, registry.CollectorRegistry):
        raise TypeError(f"to is {to!r}; give a CollectorRegistry of prometheus_client, or leave it out")
    collector = Collector()
    to.register(collector)
    return collector


def _empty(metric: Metric) -> GaugeMetricFamily | CounterMetricFamily:
    family = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    return family(metric.name, metric.text, labels=metric.labels)


def _family(metric: Metric, figures: Figures) -> Family:
    family = _empty(metric)
    for labels, value in metric.samples(figures):
        family.add_metric(labels, value)
    return family


def _held(figures: Figures) -> Family:
    family = HistogramMetricFamily(HELD_NAME, HELD_TEXT, labels=HANDLE_LABELS)
    for labels, held in held_of(figures):
        family.add_metric(labels, _buckets(held), held.seconds)
    return family


def _buckets(held: Held) -> list[tuple[str, float]]:
    bounds = (*map(floatToGoString, _totals.BOUNDS), "+Inf")
    return list(zip(bounds, held.buckets, strict=True))
