"""Small random models, the same in Hugging Face transformers, and a driver for paged caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ossia.config import ModelConfig, RopeConfig, model_config_to_hf
from ossia.kernels.select import select_kernels
from ossia.model.batch import ForwardBatch, LayerCache, PagedBatch
from ossia.model.gpt_oss import GptOssForCausalLM
from ossia.model.weights import ExpertWeights, LayerWeights, ModelWeights
from ossia.mxfp4 import Mxfp4Tensor, unpack

CPU = torch.device("cpu")

SMALL = ModelConfig(
    vocab_size=128,
    hidden_size=64,
    num_layers=4,
    num_heads=8,
    num_kv_heads=2,
    head_dim=16,
    num_experts=8,
    experts_per_token=4,
    intermediate_size=64,
    sliding_window=12,
    max_context=4096,
    rope=RopeConfig(original_context=128),
    expert_format="bf16",
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small_config() -> ModelConfig:
    return SMALL


@pytest.fixture
def random_weights() -> Callable[..., ModelWeights]:
    return make_weights


@pytest.fixture
def hf_logits() -> Callable[..., Tensor]:
    return run_transformers


@pytest.fixture
def paged_model() -> Callable[..., PagedModel]:
    def build(weights: ModelWeights, **options: Any) -> PagedModel:
        kernels = select_kernels(CPU, weights.embedding.dtype)
        return PagedModel(GptOssForCausalLM(weights, kernels, CPU), **options)

    return build


def make_weights(
    config: ModelConfig, *, seed: int = 0, packed: bool = False, dtype: torch.dtype = torch.float32
) -> ModelWeights:
    """Weights large enough that every part of the network moves the logits.

    Values are rounded to bfloat16 first, so that the same weights exist in every dtype.
    """
    rng = torch.Generator().manual_seed(seed)
    c = config

    def normal(*shape: int, std: float = 0.1, mean: float = 0.0) -> Tensor:
        values = torch.randn(*shape, generator=rng) * std + mean
        return values.to(torch.bfloat16).to(dtype)

    def matrix(experts: int, rows: int, columns: int) -> Tensor | Mxfp4Tensor:
        if not packed:
            return normal(experts, rows, columns, std=columns**-0.5)
        shape = (experts, rows, columns // 32)
        blocks = torch.randint(0, 256, (*shape, 16), generator=rng, dtype=torch.uint8)
        return Mxfp4Tensor(blocks, torch.randint(120, 126, shape, generator=rng, dtype=torch.uint8))

    def layer() -> LayerWeights:
        attention_size = c.num_heads * c.head_dim
        return LayerWeights(
            input_norm=normal(c.hidden_size, mean=1.0),
            qkv=normal(c.qkv_size, c.hidden_size, std=2 * c.hidden_size**-0.5),
            qkv_bias=normal(c.qkv_size),
            sinks=normal(c.num_heads, std=1.0),
            out=normal(c.hidden_size, attention_size, std=attention_size**-0.5),
            out_bias=normal(c.hidden_size),
            post_norm=normal(c.hidden_size, mean=1.0),
            router=normal(c.num_experts, c.hidden_size),
            router_bias=normal(c.num_experts),
            experts=ExpertWeights(
                gate_up=matrix(c.num_experts, 2 * c.intermediate_size, c.hidden_size),
                gate_up_bias=normal(c.num_experts, 2 * c.intermediate_size),
                down=matrix(c.num_experts, c.hidden_size, c.intermediate_size),
                down_bias=normal(c.num_experts, c.hidden_size),
            ),
        )

    return ModelWeights(
        config=replace(c, expert_format="mxfp4" if packed else "bf16"),
        embedding=normal(c.vocab_size, c.hidden_size, std=1.0),
        layers=tuple(layer() for _ in range(c.num_layers)),
        norm=normal(c.hidden_size, mean=1.0),
        lm_head=normal(c.vocab_size, c.hidden_size),
    )


def run_transformers(weights: ModelWeights, tokens: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Logits of Hugging Face's GptOssForCausalLM with eager attention, [tokens, vocab]."""
    from transformers import GptOssConfig
    from transformers import GptOssForCausalLM as HuggingFaceModel

    raw = model_config_to_hf(replace(weights.config, expert_format="bf16"))
    raw["pad_token_id"] = raw["eos_token_id"] = 0
    model = HuggingFaceModel._from_config(
        GptOssConfig(**raw),
        attn_implementation="eager",
        experts_implementation="eager",
        dtype=torch.float32,
    )
    model.load_state_dict(_hf_state(weights), strict=True)
    with torch.no_grad():
        logits: Tensor = model.to(dtype).eval()(torch.tensor([list(tokens)])).logits[0]
    return logits


def _hf_state(weights: ModelWeights) -> dict[str, Tensor]:
    c = weights.config
    sizes = [c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.num_kv_heads * c.head_dim]

    def plain(weight: Tensor | Mxfp4Tensor) -> Tensor:
        values = unpack(weight, torch.float32) if isinstance(weight, Mxfp4Tensor) else weight
        return values.transpose(1, 2)

    state = {
        "model.embed_tokens.weight": weights.embedding,
        "model.norm.weight": weights.norm,
        "lm_head.weight": weights.lm_head,
    }
    for i, layer in enumerate(weights.layers):
        attention, mlp = f"model.layers.{i}.self_attn.", f"model.layers.{i}.mlp."
        for name, weight, bias in zip(
            "qkv", layer.qkv.split(sizes), layer.qkv_bias.split(sizes), strict=True
        ):
            state[f"{attention}{name}_proj.weight"] = weight
            state[f"{attention}{name}_proj.bias"] = bias
        state |= {
            f"model.layers.{i}.input_layernorm.weight": layer.input_norm,
            f"model.layers.{i}.post_attention_layernorm.weight": layer.post_norm,
            attention + "sinks": layer.sinks,
            attention + "o_proj.weight": layer.out,
            attention + "o_proj.bias": layer.out_bias,
            mlp + "router.weight": layer.router,
            mlp + "router.bias": layer.router_bias,
            mlp + "experts.gate_up_proj": plain(layer.experts.gate_up),
            mlp + "experts.gate_up_proj_bias": layer.experts.gate_up_bias,
            mlp + "experts.down_proj": plain(layer.experts.down),
            mlp + "experts.down_proj_bias": layer.experts.down_bias,
        }
    return state


@dataclass
class _Sequence:
    length: int = 0  # tokens already in the caches
    full: list[int] = field(default_factory=list)  # pages
    window: list[int] = field(default_factory=list)  # pages, of positions from window_first on
    window_first: int = 0


class PagedModel:
    """Runs steps of several sequences, with pages handed out in random order.

    Pages that were never written, and window pages that were freed, hold NaN, so that a kernel
    that reads what it must not read shows it.
    """

    def __init__(self, model: GptOssForCausalLM, *, page_size: int = 4, pages: int = 256) -> None:
        c = model.config
        self.model, self.page_size = model, page_size
        shape = (pages, page_size, c.num_kv_heads, c.head_dim)
        self.caches = [
            LayerCache(*(torch.full(shape, torch.nan, dtype=model.dtype) for _ in range(2)))
            for _ in c.layer_types
        ]
        order = torch.randperm(pages, generator=torch.Generator().manual_seed(1)).tolist()
        self._free_full, self._free_window = list(order), list(reversed(order))
        self._sequences: dict[str, _Sequence] = {}

    def step(
        self, chunks: Mapping[str, Sequence[int]], rows: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Feed the next tokens of some sequences; logits after each of them, by sequence.

        With `rows`, only after these tokens of the step.
        """
        for name, chunk in chunks.items():
            self._grow(self._sequences.setdefault(name, _Sequence()), len(chunk))
        sequences = [self._sequences[name] for name in chunks]
        sizes = [len(chunk) for chunk in chunks.values()]
        positions = [
            torch.arange(s.length - size, s.length)
            for s, size in zip(sequences, sizes, strict=True)
        ]
        wanted = range(sum(sizes)) if rows is None else rows
        batch = ForwardBatch(
            token_ids=torch.tensor([t for chunk in chunks.values() for t in chunk]),
            positions=torch.cat(positions),
            full=self._paged([(s.full, 0, s.length) for s in sequences], positions),
            window=self._paged(
                [(s.window, s.window_first, s.length) for s in sequences], positions
            ),
            logit_rows=torch.tensor(list(wanted), dtype=torch.int64),
        )
        logits = self.model.forward(batch, self.caches)
        assert logits.dtype == torch.float32
        ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
        counts = [sum(a <= row < b for row in wanted) for a, b in pairwise(ends)]
        return dict(zip(chunks, logits.split(counts), strict=True))

    def run(self, name: str, tokens: Sequence[int], chunk: int) -> Tensor:
        """Feed one sequence in chunks; all its logits."""
        pieces = [tokens[i : i + chunk] for i in range(0, len(tokens), chunk)]
        return torch.cat([self.step({name: piece})[name] for piece in pieces])

    def _grow(self, s: _Sequence, new: int) -> None:
        size, window = self.page_size, self.model.config.sliding_window
        first = max(0, s.length - window + 1) // size * size
        while s.window and s.window_first < first:
            page = s.window.pop(0)
            for layer in self.model.config.window_layers:
                self.caches[layer].keys[page] = torch.nan
                self.caches[layer].values[page] = torch.nan
            self._free_window.insert(0, page)
            s.window_first += size
        s.length += new
        while len(s.full) * size < s.length:
            s.full.append(self._free_full.pop())
        while s.window_first + len(s.window) * size < s.length:
            s.window.append(self._free_window.pop())

    def _paged(self, rows: list[tuple[list[int], int, int]], positions: list[Tensor]) -> PagedBatch:
        size = self.page_size
        table = torch.zeros(len(rows), max(len(pages) for pages, _, _ in rows), dtype=torch.int32)
        slots = []
        for i, ((pages, first, _), at) in enumerate(zip(rows, positions, strict=True)):
            table[i, : len(pages)] = torch.tensor(pages, dtype=torch.int32)
            relative = at - first
            slots.append(torch.tensor(pages)[relative // size] * size + relative % size)
        lengths = [len(at) for at in positions]
        starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
        return PagedBatch(
            slots=torch.cat(slots),
            page_table=table,
            first_positions=torch.tensor([first for _, first, _ in rows], dtype=torch.int32),
            kv_lens=torch.tensor([length for _, _, length in rows], dtype=torch.int32),
            query_starts=starts,
            max_query_len=max(lengths),
            max_kv_len=max(length for _, _, length in rows),
        )
