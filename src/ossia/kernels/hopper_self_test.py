"""Makes the fused Hopper kernels ready and checks each against its reference, at every start.

A layer of the model's geometry with random weights runs through every kernel that a step can need:
this compiles them, or loads them from the cache on disk. What comes out is compared with the
references in float32. A wrong driver, compiler or card then stops the server instead of spoiling
answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ossia.config import ModelConfig
from ossia.errors import StartupError
from ossia.kernels.attention import reference as attention_reference
from ossia.kernels.attention.decode_scratch import DecodeScratch
from ossia.kernels.attention.triton_decode import attend_decode
from ossia.kernels.attention.triton_prefill import attend_prefill
from ossia.kernels.attention_out import reference as out_reference
from ossia.kernels.attention_out.fused_many import project_out_many
from ossia.kernels.attention_out.triton_few import project_out_few
from ossia.kernels.attention_out.triton_one import project_out_one
from ossia.kernels.hopper import HopperKernels
from ossia.kernels.lm_head.fused_many import logits_many
from ossia.kernels.lm_head.triton_one import logits_one
from ossia.kernels.moe import reference as moe_reference
from ossia.kernels.moe.cuda_decode import experts_one
from ossia.kernels.moe.hopper_layout import HopperExperts, to_hopper
from ossia.kernels.moe.hopper_plan import all_plans, compile_plans, plan_experts, run_plan
from ossia.kernels.qkv import reference as qkv_reference
from ossia.kernels.qkv.fused_many import project_qkv_many
from ossia.kernels.qkv.triton_few import project_qkv_few
from ossia.kernels.qkv.triton_one import project_qkv_one
from ossia.kernels.rms_norm.reference import rms_norm
from ossia.kernels.router import reference as router_reference
from ossia.kernels.router.triton_combine import combine
from ossia.kernels.router.triton_few import route_and_group
from ossia.kernels.router.triton_one import route_one
from ossia.kernels.thresholds import OUT_FEW_TOKENS, QKV_FEW_TOKENS
from ossia.model.batch import LayerCache, PagedBatch
from ossia.model.rotary import RotaryEmbedding
from ossia.model.weights import ExpertWeights
from ossia.mxfp4 import Mxfp4Tensor

# ||ours - reference|| / ||reference||; bfloat16 results are off by 2e-3 to 4e-3.
TOLERANCE = 1.5e-2
# Tokens of a step: each takes another of the variants that kernels are compiled in.
DECODING = (1, 3, 20, 40, 100, 200)
PROMPT = 600
LARGE_STEP = 2100  # from 2,048 tokens on the router takes larger tiles
PAGE_SIZE = 16
VOCAB = 1024


def warm_up(
    hopper: HopperKernels,
    model: ModelConfig,
    device: torch.device,
    max_rows: int,
    max_tokens: int,
) -> Iterator[str]:
    """Run and check every kernel; a line for each.

    Args:
        hopper: the kernels that were chosen.
        model: the geometry.
        device: a Hopper GPU.
        max_rows: sequences that decode in one step.
        max_tokens: in the largest step.

    Raises:
        StartupError: a kernel gives wrong numbers; names it.
    """
    compile_plans(model, max_tokens)
    with torch.inference_mode():
        layer = _Layer(hopper, model, device)
        for tokens in DECODING:
            if tokens <= max(1, max_rows):
                yield from layer.check_decode(tokens)
        if max_tokens >= PROMPT:
            yield from layer.check_prompt(PROMPT)
        plans = all_plans(max_tokens, model.experts_per_token, model.num_experts)
        for tokens in sorted({*plans.values(), min(max_tokens, LARGE_STEP)}):
            yield from layer.check_experts(tokens)
        torch.cuda.synchronize(device)


class _Layer:
    """A random layer and its checks."""

    def __init__(self, hopper: HopperKernels, model: ModelConfig, device: torch.device) -> None:
        self._hopper = hopper
        self._model = model
        self._device = device
        self._rng = torch.Generator(device).manual_seed(0)
        c = model
        attention = c.num_heads * c.head_dim
        self._norm = 1 + self._normal(c.hidden_size, scale=0.1)
        self._qkv = self._normal(c.qkv_size, c.hidden_size, scale=c.hidden_size**-0.5)
        self._qkv_bias = self._normal(c.qkv_size, scale=0.1)
        self._out = self._normal(c.hidden_size, attention, scale=attention**-0.5)
        self._out_bias = self._normal(c.hidden_size, scale=0.1)
        self._router = self._normal(c.num_experts, c.hidden_size, scale=c.hidden_size**-0.5)
        self._router_bias = self._normal(c.num_experts, scale=0.1)
        self._sinks = self._normal(c.num_heads)
        self._head = self._normal(VOCAB, c.hidden_size, scale=c.hidden_size**-0.5)
        self._experts = ExpertWeights(
            self._packed(2 * c.intermediate_size, c.hidden_size),
            self._normal(c.num_experts, 2 * c.intermediate_size, scale=0.1),
            self._packed(c.hidden_size, c.intermediate_size),
            self._normal(c.num_experts, c.hidden_size, scale=0.1),
        )
        self._placed: HopperExperts = to_hopper(self._experts)
        self._cos_sin = RotaryEmbedding(c.rope, c.head_dim, device).table(4096)
        self._scratch = DecodeScratch.allocate(
            max(DECODING), c.num_heads, c.num_kv_heads, c.head_dim, device, pdl=hopper.pdl
        )

        self._attend_prefill = hopper.attend_prefill or partial(
            attend_prefill, scratch=self._scratch
        )

    def check_decode(self, tokens: int) -> Iterator[str]:
        """One token of each of `tokens` sequences."""
        lengths = [1 + (37 * i + 300 // tokens) % 300 for i in range(tokens)]
        x = self._normal(tokens, self._model.hidden_size)
        for window in (None, self._model.sliding_window):
            paged, pages = self._paged(lengths, [1] * tokens, window)
            yield from self._check_attention(x, paged, pages, window, decode=True)
        yield from self._check_experts(x)
        run = logits_one if tokens == 1 else logits_many
        found = run(x, self._norm, self._model.rms_norm_eps, self._head, pdl=self._hopper.pdl)
        truth = rms_norm(x.float(), self._norm.float(), self._model.rms_norm_eps) @ (
            self._head.float().T
        )
        yield self._compare("lm_head", tokens, found, truth)

    def check_prompt(self, tokens: int) -> Iterator[str]:
        """Two that decode, and three chunks of prompts, two of which continue others."""
        new = [1, 1, tokens - tokens // 3 - 9, tokens // 3, 7]
        lengths = [40, 300, new[2], 45 + new[3], 300 + new[4]]
        x = self._normal(tokens, self._model.hidden_size)
        for window in (None, self._model.sliding_window):
            paged, pages = self._paged(lengths, new, window)
            yield from self._check_attention(x, paged, pages, window, decode=False)
        yield from self._check_experts(x)

    def check_experts(self, tokens: int) -> Iterator[str]:
        """The second half of a block alone."""
        yield from self._check_experts(self._normal(tokens, self._model.hidden_size))

    def _check_attention(
        self, x: Tensor, paged: PagedBatch, pages: int, window: int | None, *, decode: bool
    ) -> Iterator[str]:
        c, tokens, pdl = self._model, len(x), self._hopper.pdl
        shape = (pages, PAGE_SIZE, c.num_kv_heads, c.head_dim)
        cache = LayerCache(self._normal(*shape), self._normal(*shape))
        truth_cache = LayerCache(cache.keys.float(), cache.values.float())
        starts = paged.query_starts.tolist()
        positions = torch.cat(
            [
                torch.arange(length - (end - begin), length)
                for begin, end, length in zip(
                    starts[:-1], starts[1:], paged.kv_lens.tolist(), strict=True
                )
            ]
        ).to(self._device)
        project = (
            project_qkv_one
            if tokens == 1
            else project_qkv_few
            if tokens <= QKV_FEW_TOKENS
            else project_qkv_many
        )
        places = (c.rms_norm_eps, positions, paged.slots, self._cos_sin)
        q = project(x, self._norm, self._qkv, self._qkv_bias, *places, cache, pdl=pdl)
        truth = qkv_reference.project_qkv(
            x.float(),
            self._norm.float(),
            self._qkv.float(),
            self._qkv_bias.float(),
            *places,
            truth_cache,
        )
        yield self._compare("qkv", tokens, q, truth)
        written = cache.keys.flatten(0, 1)[paged.slots], cache.values.flatten(0, 1)[paged.slots]
        truths = (
            truth_cache.keys.flatten(0, 1)[paged.slots],
            truth_cache.values.flatten(0, 1)[paged.slots],
        )
        yield self._compare("cache write", tokens, torch.stack(written), torch.stack(truths))

        scale = c.head_dim**-0.5
        if decode:
            mixed = attend_decode(q, cache, paged, self._sinks, scale, window, self._scratch)
        else:
            mixed = self._attend_prefill(q, cache, paged, self._sinks, scale, window)
        attend = attention_reference.prepare_attention(paged, PAGE_SIZE, c.num_kv_heads, window)
        keys, values = (pool.float() for pool in (cache.keys, cache.values))
        truth = attend(
            q.float(),
            keys.flatten(0, 1)[paged.slots],
            values.flatten(0, 1)[paged.slots],
            LayerCache(keys, values),
            self._sinks.float(),
            scale,
        )
        kind = "attention" if window is None else "window attention"
        yield self._compare(f"{kind} ({'decode' if decode else 'prompt'})", tokens, mixed, truth)

        mixed = mixed.flatten(1)
        if tokens <= OUT_FEW_TOKENS:
            add = project_out_one if tokens == 1 else project_out_few
            out = add(x, mixed, self._out, self._out_bias, pdl=pdl)
        else:
            out = project_out_many(x, mixed, self._out, self._out_bias, pdl=pdl)
        truth = out_reference.project_out(
            x.float(), mixed.float(), self._out.float(), self._out_bias.float()
        )
        yield self._compare("attention_out", tokens, out, truth)

    def _check_experts(self, x: Tensor) -> Iterator[str]:
        c, tokens, pdl = self._model, len(x), self._hopper.pdl
        k, alpha, limit = c.experts_per_token, c.swiglu_alpha, c.swiglu_limit
        router = (self._norm, self._router, self._router_bias, c.rms_norm_eps)
        truth = router_reference.route(x, *router, k)
        if tokens == 1:
            normed, logits = route_one(x, *router, pdl=pdl)
            out = experts_one(x, normed, logits, self._placed, k, alpha, limit, pdl=pdl)
            shares, chosen = truth.shares, truth.chosen
        else:
            plan = plan_experts(tokens, k, c.num_experts)
            routed, groups = route_and_group(x, *router, k, plan.rows_a_tile, pdl=pdl)
            normed, shares, chosen = routed.normed, routed.shares, routed.chosen
            yield self._compare("router", tokens, shares.sort().values, truth.shares.sort().values)
            y = run_plan(plan, normed, groups, self._placed, alpha, limit, pdl=pdl)
            out, next_normed = combine(x, y, shares, self._norm, c.rms_norm_eps, pdl=pdl)
            assert next_normed is not None
            normed_truth = rms_norm(out, self._norm, c.rms_norm_eps)
            yield self._compare("combine", tokens, next_normed, normed_truth)
        sample = torch.arange(0, tokens, max(1, tokens // 24), device=self._device)
        mixture = moe_reference.run_experts(
            normed[sample].float(),
            shares[sample],
            chosen[sample].long(),
            self._experts_in_float32(),
            alpha,
            limit,
        )
        yield self._compare("experts", tokens, out[sample] - x[sample], mixture)

    def _experts_in_float32(self) -> ExpertWeights:
        e = self._experts
        return ExpertWeights(e.gate_up, e.gate_up_bias.float(), e.down, e.down_bias.float())

    def _compare(self, name: str, tokens: int, ours: Tensor, truth: Tensor) -> str:
        ours, truth = ours.double(), truth.double()
        error = float((ours - truth).norm() / truth.norm())
        if not error <= TOLERANCE:  # also true for NaN
            raise StartupError(
                f"The {name} kernel gives wrong numbers on this GPU for {tokens} tokens: it is "
                f"off by {error:.2g}, {TOLERANCE:g} is allowed; update the GPU driver and torch, "
                "or start with --attention-backend TORCH, which is slower."
            )
        return f"{name}, {tokens} tokens: off by {error:.1e}"

    def _paged(
        self, lengths: list[int], new: list[int], window: int | None
    ) -> tuple[PagedBatch, int]:
        """A step of sequences that are `lengths` long after it, and the pages it needs."""
        firsts = [
            0 if window is None else max(0, n - count - window + 1) // PAGE_SIZE * PAGE_SIZE
            for n, count in zip(lengths, new, strict=True)
        ]
        counts = [-(-(n - first) // PAGE_SIZE) for n, first in zip(lengths, firsts, strict=True)]
        pages = sum(counts) + 1
        order = torch.randperm(pages - 1, generator=torch.Generator().manual_seed(1)) + 1
        table = torch.zeros(len(lengths), max(counts), dtype=torch.int32)
        slots, used = [], 0
        for s, (length, count, first) in enumerate(zip(lengths, new, firsts, strict=True)):
            own = order[used : used + counts[s]]
            used += counts[s]
            table[s, : counts[s]] = own.to(torch.int32)
            at = torch.arange(length - count, length) - first
            slots.append(own[at // PAGE_SIZE] * PAGE_SIZE + at % PAGE_SIZE)

        def int32(values: Tensor | list[int]) -> Tensor:
            return torch.as_tensor(values).to(self._device, torch.int32)

        paged = PagedBatch(
            slots=torch.cat(slots).to(self._device),
            page_table=int32(table),
            first_positions=int32(firsts),
            kv_lens=int32(lengths),
            query_starts=int32(torch.tensor([0, *new]).cumsum(0)),
            max_query_len=max(new),
            max_kv_len=max(lengths),
            num_decodes=next((i for i, count in enumerate(new) if count > 1), len(new)),
        )
        return paged, pages

    def _normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        values = torch.randn(*shape, generator=self._rng, device=self._device) * scale
        return values.to(torch.bfloat16)

    def _packed(self, rows: int, columns: int) -> Mxfp4Tensor:
        shape = (self._model.num_experts, rows, columns // 32)
        # Scales that keep sums of this many products near unit size.
        low = 127 - round(torch.tensor(8.5 * columns).log2().item() / 2)

        def integers(first: int, after: int, *size: int) -> Tensor:
            return torch.randint(
                first, after, size, generator=self._rng, dtype=torch.uint8, device=self._device
            )

        return Mxfp4Tensor(integers(0, 256, *shape, 16), integers(low, low + 2, *shape))
