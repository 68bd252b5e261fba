"""What a step and its surroundings hold besides weights and cache, by arithmetic on the geometry.

Sizes are those of the tensors that are alive together at the widest moment, from the shapes in the
kernels: no profiling run is needed, so the figures are there before anything is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

from ossia.config import ModelConfig

MASKS = 512  # that are kept on the device
CUBLAS_WORKSPACE = 64 << 20  # bytes; 32 MiB for each of the two streams that multiply
GRAPH_BYTES = 3 << 20  # of a captured step of some 200 launches, in the driver
GRAPHS = 44  # batch sizes that are captured, at most
SMALL_STEPS, SMALL_STEP_TOKENS = 8, 512  # with prompts, of fused kernels: how many, and the largest
# float32 [rows, vocab] beside the logits. Sampling in kernels works in place, and keeps a copy of
# rows that want log-probabilities; in single operations there are penalised logits, weights, sums.
FUSED_SAMPLER_COPIES, SAMPLER_COPIES = 1, 3


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Bytes on a GPU besides weights, cache and reserve."""

    step: int  # tensors of the largest step
    graphs: int  # captured steps, which own their tensors
    tables: int  # angles, page tables, masks, parts of attention, workspaces

    @property
    def total(self) -> int:
        """All together; a captured step and one with prompts never share memory."""
        return self.step + self.graphs + self.tables


def gpu_memory(
    model: ModelConfig,
    *,
    tokens: int,
    rows: int,
    max_model_len: int,
    page_size: int,
    itemsize: int,
    fused: bool,
) -> GpuMemory:
    """Estimate what a GPU holds.

    Args:
        model: the geometry.
        tokens: in the largest step.
        rows: sequences that are sampled in one step.
        max_model_len: tokens in the longest sequence.
        page_size: tokens in a page of the cache.
        itemsize: bytes of a number in activations.
        fused: whether blocks and sampling run in fused kernels, which keep less between them.
    """
    logits = rows * model.vocab_size * 4
    sampling = (1 + (FUSED_SAMPLER_COPIES if fused else SAMPLER_COPIES)) * logits
    captured = _layer_bytes(model, rows, itemsize, fused) + GRAPHS * GRAPH_BYTES
    if fused:
        captured += _layer_bytes(model, SMALL_STEP_TOKENS, itemsize, fused)
        captured += SMALL_STEPS * GRAPH_BYTES
    return GpuMemory(
        step=max(_layer_bytes(model, tokens, itemsize, fused), sampling),
        graphs=captured + logits,
        tables=_table_bytes(model, rows, max_model_len, page_size) + CUBLAS_WORKSPACE,
    )


def _layer_bytes(model: ModelConfig, tokens: int, itemsize: int, fused: bool) -> int:
    """At the widest moment of a layer, between its experts or around its attention.

    Always alive: the residual stream before and after, and its norm. Fused, attention has q and its
    output, and the experts h [tokens * k, intermediate] and y [tokens * k, hidden]. Operation by
    operation there are also q, k and v as they were projected, and gate and up before SwiGLU.
    """
    c = model
    stream = 3 * c.hidden_size
    heads = c.num_heads * c.head_dim
    attention = 2 * heads + (0 if fused else 2 * c.qkv_size)
    inner = c.intermediate_size * (1 if fused else 3)
    experts = c.experts_per_token * (inner + c.hidden_size)
    return tokens * itemsize * (stream + max(attention, experts))


def _table_bytes(model: ModelConfig, rows: int, max_model_len: int, page_size: int) -> int:
    c = model
    rotary = max_model_len * c.head_dim * 4  # cosines and sines
    pages = rows * -(-max_model_len // page_size) * 4
    masks = MASKS * -(-c.vocab_size // 32) * 4
    # Parts of sequences in decoding: about one a row, or enough of them to fill the processors.
    attention = 2 * max(rows, 64) * c.num_heads * (c.head_dim + 2) * 4
    return rotary + pages + masks + attention


def cpu_step_bytes(model: ModelConfig, tokens: int, rows: int, itemsize: int) -> int:
    """Estimate of the most that a step on the CPU holds besides weights and cache.

    Either the widest moment of a layer (the residual stream, and for each token's chosen experts
    the gate-up output and its activation, or the attention's queries, keys and values in float32)
    or the logits with the sampler's copies.
    """
    c = model
    stream = 3 * c.hidden_size * itemsize
    experts = c.experts_per_token * (3 * c.intermediate_size + c.hidden_size) * itemsize
    attention = 2 * c.qkv_size * 4
    logits = rows * c.vocab_size * (4 + itemsize) + 4 * c.vocab_size * 8
    return max(tokens * (stream + max(experts, attention)), logits)
