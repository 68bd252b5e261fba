"""What Prometheus reads at /metrics. One registry per app, no global state.

Gauges and token counters are read from the engine's latest statistics when they are asked for;
times and outcomes of requests are observed as they happen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ossia.engine.messages import EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_FIRST_TOKEN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_REQUEST_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters and histograms of one server.

    `stats` gives the engine's latest statistics, `restarts` how often its process was started
    again, `streams` the sequences that are open now.
    """

    def __init__(
        self,
        stats: Callable[[], EngineStats],
        restarts: Callable[[], int],
        streams: Callable[[], int],
    ) -> None:
        registry = CollectorRegistry()
        registry.register(_EngineCollector(stats, restarts, streams))
        self._registry = registry
        self.requests = Counter(
            "ossia_requests",
            "HTTP requests that ended, by endpoint and status",
            ("endpoint", "status"),
            registry=registry,
        )
        self.reasoning_tokens = Counter(
            "ossia_reasoning_tokens",
            "Generated tokens that were chain of thought",
            registry=registry,
        )
        self.grammar_refusals = Counter(
            "ossia_grammar_refusals",
            "Requests whose schema or grammar could not be enforced",
            registry=registry,
        )
        self.first_token = Histogram(
            "ossia_time_to_first_token_seconds",
            "From the request's arrival at the engine to its first token",
            buckets=_FIRST_TOKEN_BUCKETS,
            registry=registry,
        )
        self.inter_token = Histogram(
            "ossia_inter_token_latency_seconds",
            "Between two tokens of a sequence; tokens that come together share their time",
            buckets=_TOKEN_BUCKETS,
            registry=registry,
        )
        self.request_seconds = Histogram(
            "ossia_request_seconds",
            "Whole HTTP requests that generate, streams to their last event",
            ("endpoint",),
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self.tool_seconds = Histogram(
            "ossia_tool_call_seconds",
            "Calls that the server ran; the tools of MCP servers are all `other`",
            ("tool", "outcome"),
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self.responses = Counter(
            "ossia_responses",
            "Ended responses of the Responses API",
            ("status",),
            registry=registry,
        )

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    def __init__(
        self,
        stats: Callable[[], EngineStats],
        restarts: Callable[[], int],
        streams: Callable[[], int],
    ) -> None:
        self._stats = stats
        self._restarts = restarts
        self._streams = streams

    def describe(self) -> Iterable[Metric]:
        return ()  # the engine need not run yet when this is registered

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        yield _gauge("ossia_open_sequences", "Sequences clients wait for", self._streams())
        yield _gauge("ossia_sequences_running", "Sequences in the batch", stats.running)
        yield _gauge("ossia_sequences_waiting", "Sequences in the queue", stats.waiting)
        yield _gauge(
            "ossia_sequences_compiling", "Sequences that wait for their grammar", stats.compiling
        )
        used = GaugeMetricFamily(
            "ossia_kv_pages_used", "Key-value pages that running sequences hold", labels=["pool"]
        )
        total = GaugeMetricFamily("ossia_kv_pages_total", "Key-value pages", labels=["pool"])
        used.add_metric(["full"], stats.full_pages_used)
        used.add_metric(["window"], stats.window_pages_used)
        total.add_metric(["full"], stats.full_pages_total)
        total.add_metric(["window"], stats.window_pages_total)
        yield used
        yield total
        cuts = CounterMetricFamily(
            "ossia_reasoning_cuts", "Times reasoning was ended, by reason", labels=["reason"]
        )
        cuts.add_metric(["max_tokens"], stats.cuts_by_limit)
        cuts.add_metric(["loop"], stats.cuts_by_loop)
        yield cuts
        for name, text, value in (
            ("prompt_tokens", "Prompt tokens, computed or found in the cache", stats.prompt_tokens),
            ("cached_tokens", "Prompt tokens found in the prefix cache", stats.cached_tokens),
            ("generated_tokens", "Tokens sampled", stats.generated_tokens),
            ("preemptions", "Sequences set back because pages ran out", stats.preemptions),
            ("engine_steps", "Steps of the engine", stats.steps),
            ("engine_step_seconds", "Time in steps of the engine", stats.step_seconds),
            ("engine_model_seconds", "Of which inside the network", stats.model_seconds),
            ("constrained_sequences", "Sequences held to a turn grammar", stats.constrained),
            ("grammars_compiled", "Grammars that were not known before", stats.grammars_compiled),
            (
                "grammar_compile_seconds",
                "Time in compiling them, beside the steps",
                stats.grammar_compile_seconds,
            ),
            ("masks_computed", "Masks of the sampler", stats.masks_computed),
            (
                "mask_wait_seconds",
                "Time in steps that waited for masks alone",
                stats.mask_wait_seconds,
            ),
            ("engine_restarts", "Times the engine process was restarted", self._restarts()),
        ):
            yield CounterMetricFamily(f"ossia_{name}", text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
