"""A tiny random network for the engine's tests."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from llguidance import LLMatcher, LLTokenizer

from ossia.config import EngineConfig, ModelConfig, model_config_to_hf
from ossia.engine.core import EngineCore
from ossia.engine.messages import Chunk, Constraint, Generate
from ossia.engine.request import Request
from ossia.engine.start import start_engine
from ossia.harmony.ll_tokenizer import ll_tokenizer
from ossia.harmony.tokenizer import VOCAB_SIZE, Tokenizer
from ossia.sampling import SamplingParams

VOCAB = 1024
TINY = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=64,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    num_experts=4,
    experts_per_token=2,
    intermediate_size=64,
    sliding_window=32,
    max_context=2048,
    pad_token_id=0,
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with the config.json of `TINY`, for load_format dummy."""
    directory: Path = tmp_path_factory.mktemp("tiny")
    (directory / "config.json").write_text(json.dumps(model_config_to_hf(TINY)))
    return str(directory)


@pytest.fixture(scope="session")
def tiny_config(tiny_model: str) -> Callable[..., EngineConfig]:
    """An EngineConfig for the tiny network; options can be overridden."""

    def make(**options: object) -> EngineConfig:
        defaults: dict[str, object] = {
            "model": tiny_model,
            "load_format": "dummy",
            "device": "cpu",
            "dtype": "float32",
            "num_threads": 1,
            "kv_cache_memory": 16 << 20,
        }
        return EngineConfig(**{**defaults, **options})  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def make_core(tiny_config: Callable[..., EngineConfig]) -> Callable[..., EngineCore]:
    """Engines of the tiny network."""
    return lambda **options: start_engine(tiny_config(**options))


def params(**values: object) -> SamplingParams:
    """Sampling parameters for tests: a fixed length unless said otherwise."""
    return SamplingParams(**{"ignore_eos": True, "max_tokens": 12, **values})  # type: ignore[arg-type]


def request_of(tokens: list[int], request_id: str = "r") -> Request:
    """A request with these tokens, for steps that are made by hand."""
    return Request(
        request_id,
        tokens,
        SamplingParams(),
        arrival=0,
        max_tokens=9,
        stop_ids=frozenset(),
        turn_boundary=0,
        prompt_key=b"",
    )


class Runs:
    """Feeds an engine and collects what comes back, by request."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self.chunks: dict[str, list[Chunk]] = {}

    def add(
        self,
        request_id: str,
        prompt: list[int],
        sampling: SamplingParams,
        constraint: Constraint | None = None,
    ) -> None:
        self.core.add(Generate(request_id, prompt, sampling, constraint))

    def step(self) -> None:
        for chunk in self.core.step().chunks:
            self.chunks.setdefault(chunk.request_id, []).append(chunk)

    def finish(self) -> None:
        while self.core.has_work:
            self.step()

    def tokens(self, request_id: str) -> list[int]:
        return [t for chunk in self.chunks.get(request_id, []) for t in chunk.token_ids]

    def cuts(self, request_id: str) -> list[str]:
        return [chunk.cut for chunk in self.chunks[request_id] if chunk.cut is not None]

    def reason(self, request_id: str) -> str | None:
        return self.chunks[request_id][-1].finish_reason


@pytest.fixture(scope="session")
def make_runs(make_core: Callable[..., EngineCore]) -> Callable[..., Runs]:
    """Engines of the tiny network with their results collected."""
    return lambda **options: Runs(make_core(**options))


@pytest.fixture(scope="session")
def sampling() -> Callable[..., SamplingParams]:
    """`params`, for tests that cannot import this file."""
    return params


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """The real vocabulary."""
    return Tokenizer()


@pytest.fixture(scope="session")
def vocabulary(tokenizer: Tokenizer) -> LLTokenizer:
    """llguidance's view of the real vocabulary, made once for all tests."""
    return ll_tokenizer(tokenizer)


@pytest.fixture(scope="session")
def wide_config(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable[..., EngineConfig]
) -> Callable[..., EngineConfig]:
    """An EngineConfig for a random network with the real vocabulary, which grammars need."""
    directory = tmp_path_factory.mktemp("wide")
    wide = dataclasses.replace(
        TINY, vocab_size=VOCAB_SIZE, hidden_size=32, num_layers=2, layer_types=()
    )
    (directory / "config.json").write_text(json.dumps(model_config_to_hf(wide)))
    return lambda **options: tiny_config(**{"model": str(directory), **options})


@pytest.fixture(scope="session")
def make_wide_runs(
    wide_config: Callable[..., EngineConfig], vocabulary: LLTokenizer
) -> Callable[..., Runs]:
    """Engines of that network with their results collected.

    Another function that makes the vocabulary can be given.
    """

    def make(make_vocabulary: Callable[[], LLTokenizer] | None = None, **options: object) -> Runs:
        config = wide_config(**options)
        return Runs(start_engine(config, ll_tokenizer=make_vocabulary or (lambda: vocabulary)))

    return make


@pytest.fixture(scope="session")
def accepts(vocabulary: LLTokenizer) -> Callable[..., bool]:
    """Whether a grammar allows these tokens, asked one after the other of a fresh matcher."""

    def ask(grammar: str, tokens: list[int], *, whole: bool = False) -> bool:
        matcher = LLMatcher(vocabulary, grammar, log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        return matcher.consume_tokens(tokens) and (not whole or matcher.is_accepting())

    return ask
