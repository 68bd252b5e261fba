"""Greedy answers of the real 20b network on a GPU are those of the float32 network.

All 24 layers, random weights. There the router's choice is often a matter of rounding, and one
other expert in one layer moves all logits of a token by tenths. So the float32 network is made to
take the experts that the fused kernels took, and the choice is judged by itself: an expert that the
float32 router would not have taken must be one that it found all but equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ossia.checkpoint.load import load_weights
from ossia.checkpoint.resolve import resolve_model
from ossia.config import EngineConfig
from ossia.engine.core import EngineCore
from ossia.engine.messages import Generate
from ossia.engine.start import start_engine
from ossia.engine.step_graphs import StepGraphs
from ossia.kernels.select import select_kernels
from ossia.model import hopper_blocks
from ossia.model.batch import ForwardBatch, LayerCache, PagedBatch
from ossia.model.gpt_oss import GptOssForCausalLM
from ossia.sampling import SamplingParams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
    pytest.mark.skipif(
        torch.cuda.is_available() and torch.cuda.get_device_capability()[0] != 9,
        reason="the fused kernels need a Hopper GPU",
    ),
]
MODEL, PAGE = "gpt-oss-20b", 16
NEARLY_EQUAL = 0.12  # router logits, which spread by 1: what bfloat16 upstream may turn around
CLEAR = 0.12  # logits, which spread by 1: a larger gap between the two best must not be turned
CHECKED = 5  # sequences of a batch
CUDA = torch.device("cuda")


class Choices:
    """The experts that the fused kernels chose, [tokens, k] for every layer of every step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, layers: int, k: int) -> None:
        self._layers = layers
        self._calls: list[Tensor] = []
        one, many = hopper_blocks.route_one, hopper_blocks.route_and_group

        def seen_one(*args: Any, **options: Any) -> Any:
            normed, logits = one(*args, **options)
            self._calls.append(logits.sort(dim=-1, descending=True, stable=True)[1][None, :k])
            return normed, logits

        def seen_many(*args: Any, **options: Any) -> Any:
            routed, groups = many(*args, **options)
            self._calls.append(routed.chosen.to(torch.int64))
            return routed, groups

        monkeypatch.setattr(hopper_blocks, "route_one", seen_one)
        monkeypatch.setattr(hopper_blocks, "route_and_group", seen_many)

    def steps(self) -> Iterator[list[Tensor]]:
        """Those of all layers, step by step."""
        for at in range(0, len(self._calls) - self._layers + 1, self._layers):
            yield self._calls[at : at + self._layers]

    def of(self, lengths: list[int], sequence: int, new: int) -> list[Tensor]:
        """Of one of the sequences whose prompts had these lengths: [prompt + new - 1, k] each."""
        prompts, *decoding = self.steps()
        start = sum(lengths[:sequence])
        parts = [[layer[start : start + lengths[sequence]]] for layer in prompts]
        for step in decoding[: new - 1]:
            for part, layer in zip(parts, step, strict=True):
                part.append(layer[sequence : sequence + 1])
        return [torch.cat(part) for part in parts]


class Reference:
    """The float32 network with experts that it is told."""

    def __init__(self) -> None:
        source = resolve_model(MODEL, load_format="dummy")
        weights = load_weights(source, dtype=torch.float32, device=CUDA)
        kernels = replace(select_kernels(CUDA, torch.float32, "TORCH"), route=self._route)
        self._model = GptOssForCausalLM(weights, kernels, CUDA)
        self._chosen: Iterator[Tensor] = iter(())
        self.missed = 0.0  # the most by which a chosen expert was behind the k-th best

    def _route(self, logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
        chosen = next(self._chosen)
        taken = logits.gather(1, chosen)
        behind = logits.topk(k, dim=-1).values[:, -1] - taken.min(dim=-1).values
        self.missed = max(self.missed, float(behind.max()))
        return taken.softmax(dim=-1), chosen

    def logits(self, tokens: list[int], chosen: list[Tensor]) -> Tensor:
        """[tokens, vocab], after every token."""
        self._chosen = iter(chosen)
        c, count = self._model.config, len(tokens)
        pages = -(-count // PAGE)
        at = torch.arange(count, device=CUDA)
        paged = PagedBatch(
            slots=at,
            page_table=torch.arange(pages, dtype=torch.int32, device=CUDA)[None],
            first_positions=torch.zeros(1, dtype=torch.int32, device=CUDA),
            kv_lens=torch.tensor([count], dtype=torch.int32, device=CUDA),
            query_starts=torch.tensor([0, count], dtype=torch.int32, device=CUDA),
            max_query_len=count,
            max_kv_len=count,
        )
        shape = (pages, PAGE, c.num_kv_heads, c.head_dim)
        caches = [
            LayerCache(torch.zeros(shape, device=CUDA), torch.zeros(shape, device=CUDA))
            for _ in range(c.num_layers)
        ]
        batch = ForwardBatch(torch.tensor(tokens, device=CUDA), at, paged, replace(paged), at)
        return self._model.forward(batch, caches)


@pytest.fixture(scope="module")
def core() -> EngineCore:
    return start_engine(
        EngineConfig(
            model=MODEL,
            load_format="dummy",
            max_num_seqs=256,
            max_model_len=2048,
            kv_cache_memory=8 << 30,
            enable_prefix_caching=False,
        )
    )


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


def generate(core: EngineCore, prompts: list[list[int]], new: int) -> list[list[tuple[int, float]]]:
    """Greedy tokens of each, with their log-probabilities."""
    params = SamplingParams(max_tokens=new, ignore_eos=True, temperature=0.0, logprobs=0)
    for i, prompt in enumerate(prompts):
        core.add(Generate(str(i), prompt, params))
    found: list[list[tuple[int, float]]] = [[] for _ in prompts]
    while core.has_work:
        for chunk in core.step().chunks:
            assert chunk.error is None, chunk.error
            entries = [entry.logprob for entry in chunk.logprobs or []]
            found[int(chunk.request_id)] += zip(chunk.token_ids, entries, strict=True)
    return found


@pytest.mark.parametrize(("streams", "new"), [(1, 256), (8, 256), (48, 64), (120, 24), (250, 16)])
def test_greedy_tokens_are_the_references_where_the_gap_allows(
    core: EngineCore,
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
    streams: int,
    new: int,
) -> None:
    make = torch.Generator().manual_seed(streams)
    lengths = [int(torch.randint(3, 36, (), generator=make)) for _ in range(streams)]
    lengths[0] = 100
    prompts = [torch.randint(1000, 190_000, (n,), generator=make).tolist() for n in lengths]
    graphs = generate(core, prompts, new)
    # The choices can only be seen where the step is not replayed; its tokens must be the same.
    monkeypatch.setattr(StepGraphs, "run", lambda self, rows: self._step(rows))
    choices = Choices(monkeypatch, 24, 4)
    found = generate(core, prompts, new)
    assert found == graphs

    step = max(1, streams // CHECKED)
    same = positions = 0
    off: list[Tensor] = []
    for i in range(0, streams, step):
        tokens = [token for token, _ in found[i]]
        chosen = choices.of(lengths, i, new)
        logits = reference.logits(prompts[i] + tokens[:-1], chosen)[lengths[i] - 1 :]
        picked = torch.tensor(tokens, device=CUDA)
        best, at = logits.topk(2, dim=-1)
        equal = at[:, 0] == picked
        gaps = best[:, 0] - logits.gather(1, picked[:, None])[:, 0]
        assert float(gaps.max()) < CLEAR
        same, positions = same + int(equal.sum()), positions + len(tokens)
        theirs = logits.log_softmax(-1).gather(1, picked[:, None])[:, 0].cpu()
        off.append((theirs - torch.tensor([p for _, p in found[i]])).abs())
    errors = torch.cat(off)
    print(
        f"{streams} streams: {same} of {positions} tokens equal, log-probabilities off by "
        f"{errors.median():.4f} (median), {errors.max():.4f} (most); experts behind by at most "
        f"{reference.missed:.4f}"
    )
    assert reference.missed < NEARLY_EQUAL
    assert same > 0.85 * positions
    assert float(errors.median()) < 0.03


def test_the_reference_tells_wrong_experts(reference: Reference) -> None:
    """What the check above would say of a router that chooses at random."""
    make = torch.Generator().manual_seed(1)
    chosen = [torch.stack([torch.randperm(32, generator=make)[:4] for _ in range(20)]).cuda()] * 24
    before, reference.missed = reference.missed, 0.0
    reference.logits(torch.randint(0, 1000, (20,), generator=make).tolist(), chosen)
    assert reference.missed > 5 * NEARLY_EQUAL
    reference.missed = before
