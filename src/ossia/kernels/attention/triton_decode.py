"""Attention of one new token a sequence over cached keys, on a GPU: split over keys, one launch.

Computes, for sequence b and head h, with the keys j that are visible (see `reference.py`):
    s_j = scale q[b, h] . k_j
    out[b, h] = sum_j exp(s_j - m) v_j / (exp(sink_h - m) + sum_j exp(s_j - m)),  any m

Bytes to move: each visible key and value once, 2 * keys * kv_heads * head_dim * itemsize a sequence
and layer (2 KiB a key for gpt-oss in bfloat16), plus q and out. Decoding is bound by that.

Launch shape: (kv_heads, splits, sequences) programs. One program takes the query heads of a
key-value head together, padded to the 16 rows of a matrix instruction, and a part of the keys.
Neighbouring programs read neighbouring heads, which lie side by side in memory. How many parts a
sequence is cut into follows from its length on the device, so that a CUDA graph serves any lengths:
as many as fill the GPU (unless a part would have less than LEAST keys), or more (so that none has
more than MOST, and no long sequence makes a full step wait), but at most `splits`; programs without
a part return at once. With more than one part, the program that comes last adds them up, always in
the same order.

Of all keys, the kernel before wrote only the newest. The others are old enough to be fetched while
it still runs: with `early`, a program holds its first block of them in registers before it waits,
and then has to find q and the newest key alone, which lie in the L2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ossia.kernels.attention.decode_scratch import FILL, DecodeScratch
from ossia.kernels.attention.shapes import check_shapes
from ossia.kernels.fast_launch import fast_jit
from ossia.model.batch import LayerCache, PagedBatch

LEAST_ROWS = 16  # of a matrix instruction
SHORT = 128  # keys in a window that is not cut into parts


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """How the kernel is cut; the results agree up to rounding."""

    keys: int  # a program loads at a time; a power of two
    warps: int
    stages: int  # blocks of keys in flight
    least: int  # keys in a part, when a sequence is cut to fill the GPU
    most: int  # keys in a part, as far as there are splits
    prefetch: bool  # bring a part's keys into the L2 while the kernel before is still running
    early: bool = False  # load the first block while the kernel before is still running
    fill: int = 2 * FILL  # programs that the GPU runs at once, which sequences are cut to give


FULL = DecodeConfig(keys=64, warps=4, stages=3, least=128, most=1024, prefetch=False, early=True)
FULL_MANY = DecodeConfig(keys=128, warps=4, stages=2, least=128, most=1024, prefetch=False)
WINDOWED = DecodeConfig(128, warps=8, stages=2, least=128, most=1024, prefetch=False, early=True)
WINDOWED_MANY = DecodeConfig(keys=64, warps=4, stages=3, least=128, most=1024, prefetch=False)
MANY = 64  # sequences: beyond, the memory is busy all the time, and what counts is little overhead


def attend_decode(
    q: Tensor,
    cache: LayerCache,
    paged: PagedBatch,
    sinks: Tensor,
    scale: float,
    window: int | None,
    scratch: DecodeScratch,
    *,
    config: DecodeConfig | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Attention of the newest token of every sequence over what the cache holds, itself included.

    Can be captured in a CUDA graph: the launch depends on the number of sequences alone, and
    `kv_lens`, `first_positions` and `page_table` (whose width stays) may change between replays.
    A sequence with kv_lens 0 is padding: its row becomes zero.

    As a dependent launch, the kernel looks up lengths, pages and all keys but the newest before the
    kernel ahead has ended. Whatever writes them must have ended before: launch the kernel right
    after it (and it) without dependent launch, and all that follow are safe.

    Args:
        q: [sequences, heads, head_dim] contiguous, rotated; one row a sequence, in order.
        cache: keys and values, contiguous; the newest ones are already in their slots.
        paged: the step, whose first sequences these are; each has one query. `slots`,
            `query_starts` and the lengths known on the host are not read.
        sinks: [heads].
        scale: multiplies the scores.
        window: how many keys a token sees, itself included; None: all.
        scratch: of `DecodeScratch.allocate`, for at least this many sequences.
        config: how to cut the work; None: as measured best on an H100.
        out: contiguous, like q: where the result goes; None: a new tensor.

    Returns:
        [sequences, heads, head_dim], of q's type.

    Raises:
        ValueError: shapes that the kernel does not fit.
    """
    sequences, heads, head_dim = q.shape
    page_size, kv_heads = cache.keys.shape[1:3]
    group = heads // kv_heads
    if config is None:
        config = _choose(sequences, window)
    check_shapes(q, cache)
    if sequences > scratch.arrived.shape[0]:
        raise ValueError(
            f"the scratch is for {scratch.arrived.shape[0]} sequences and the step has {sequences}"
        )
    short = window is not None and window <= SHORT
    splits = 1 if short else scratch.splits(sequences)
    if out is None:
        out = torch.empty_like(q)
    _decode[(kv_heads, splits, sequences)](
        q,
        cache.keys,
        cache.values,
        out,
        sinks,
        paged.page_table,
        paged.first_positions,
        paged.kv_lens,
        scratch.mixed,
        scratch.largest,
        scratch.total,
        scratch.arrived,
        paged.page_table.stride(0),
        scale * _LOG2_E,
        max(1, config.fill // (sequences * kv_heads)),
        HEADS=heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        PAGE=page_size,
        WINDOW=window or 0,
        WHOLE=splits == 1,
        ROWS=max(LEAST_ROWS, group),
        KEYS=config.keys,
        LEAST=config.least if splits > 1 else 1,
        MOST=config.most if splits > 1 else 1,
        PARTS=4 * config.warps,
        PREFETCH=config.prefetch,
        EARLY=config.early,
        PDL=scratch.pdl,
        num_warps=config.warps,
        num_stages=config.stages,
        **({"launch_pdl": True} if scratch.pdl else {}),
    )
    return out


def _choose(sequences: int, window: int | None) -> DecodeConfig:
    if window is None or window > SHORT:
        return FULL if sequences <= MANY else FULL_MANY
    return WINDOWED if sequences <= MANY else WINDOWED_MANY


_LOG2_E = 1.4426950408889634  # exp(x) = exp2(x * log2(e)), and exp2 is one instruction
LOG2_E = tl.constexpr(_LOG2_E)
# Below every score, and finite: its differences are numbers where no key is visible.
LOWEST = tl.constexpr(-1e30)


# Tables and lengths may be views of a larger buffer, at any alignment: one variant serves all.
@fast_jit(do_not_specialize=["table_ptr", "first_ptr", "length_ptr", "table_stride", "fill"])
def _decode(  # type: ignore[no-untyped-def]
    q_ptr,  # [sequences, HEADS, HEAD_DIM]
    key_ptr,  # [pages, PAGE, KV_HEADS, HEAD_DIM]
    value_ptr,  # the same
    out_ptr,  # like q
    sink_ptr,  # [HEADS]
    table_ptr,  # int32 [sequences, pages]
    first_ptr,  # int32 [sequences]
    length_ptr,  # int32 [sequences]
    mixed_ptr,  # the fields of DecodeScratch
    largest_ptr,
    total_ptr,
    arrived_ptr,
    table_stride,
    scale,  # times log2(e)
    fill,  # parts of each sequence that fill the GPU
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,  # 0: none
    WHOLE: tl.constexpr,  # there is one split
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    LEAST: tl.constexpr,
    MOST: tl.constexpr,
    PARTS: tl.constexpr,  # parts that are added up at a time
    PREFETCH: tl.constexpr,
    EARLY: tl.constexpr,
    PDL: tl.constexpr,
):
    kv_head = tl.program_id(0)
    split = tl.program_id(1)
    sequence = tl.program_id(2)
    splits = tl.num_programs(1)
    GROUP: tl.constexpr = HEADS // KV_HEADS
    if PDL:
        gdc_launch_dependents()

    # Lengths and pages are complete, as `attend_decode` asks for: no need to wait for them.
    length = tl.load(length_ptr + sequence)
    first_kept = tl.load(first_ptr + sequence)
    begin = first_kept
    if WINDOW > 0:
        begin = tl.maximum(first_kept, length - WINDOW)
    end = length
    parts = 1
    if not WHOLE:
        count = tl.maximum(length - begin, 1)
        parts = tl.maximum(tl.minimum(count // LEAST, fill), count // MOST)
        parts = tl.minimum(tl.maximum(parts, 1), splits)
        part_keys = (count + parts * KEYS - 1) // (parts * KEYS) * KEYS
        parts = (count + part_keys - 1) // part_keys
        if split >= parts:
            return  # Not having waited is harmless: it has not written, and the other parts wait.
        begin += split * part_keys
        end = tl.minimum(length, begin + part_keys)

    table_ptr += tl.cast(sequence, tl.int64) * table_stride
    key_ptr += kv_head * HEAD_DIM
    value_ptr += kv_head * HEAD_DIM
    ONE_BLOCK: tl.constexpr = EARLY and WINDOW > 0 and WINDOW <= KEYS
    if PREFETCH:
        for start in range(begin, end, KEYS):
            key = tl.minimum(start + tl.arange(0, KEYS), end - 1) - first_kept
            row = tl.load(table_ptr + key // PAGE).to(tl.int64) * PAGE + key % PAGE
            _prefetch(key_ptr + row * (KV_HEADS * HEAD_DIM), HEAD_DIM)
            _prefetch(value_ptr + row * (KV_HEADS * HEAD_DIM), HEAD_DIM)
    row = tl.arange(0, ROWS)
    dim = tl.arange(0, HEAD_DIM)
    head = kv_head * GROUP + row
    row_mask = row < GROUP
    q_offsets = (sequence * HEADS + head)[:, None] * HEAD_DIM + dim[None, :]
    sink = tl.load(sink_ptr + head, mask=row_mask, other=0.0).to(tl.float32) * LOG2_E
    page = _load_pages(table_ptr, begin, end, first_kept, PAGE, KEYS)
    largest = tl.full([ROWS], LOWEST, tl.float32)
    # Summed over keys at the end: a sum over warps in each block would cost two barriers.
    shares = tl.zeros([ROWS, KEYS], tl.float32)
    mixed = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    rest = begin
    if EARLY:
        key = begin + tl.arange(0, KEYS)
        offsets = _place(page, key - first_kept, KV_HEADS, HEAD_DIM, PAGE)
        old = (key < tl.minimum(end, length - 1))[:, None]
        keys = tl.load(key_ptr + offsets, mask=old, other=0.0)
        values = tl.load(value_ptr + offsets, mask=old, other=0.0)
        rest += KEYS
        if not ONE_BLOCK:
            page = _load_pages(table_ptr, rest, end, first_kept, PAGE, KEYS)
    if PDL:
        gdc_wait()

    if EARLY:
        q = tl.load(q_ptr + q_offsets, mask=row_mask[:, None], other=0.0)
        newest = ((key == length - 1) & (key < end))[:, None]
        keys = tl.load(key_ptr + offsets, mask=newest, other=keys)
        values = tl.load(value_ptr + offsets, mask=newest, other=values)
        largest, shares, mixed = _add_keys(
            q, keys, values, key < end, scale, largest, shares, mixed
        )
    if not ONE_BLOCK:
        for start in range(rest, end, KEYS):
            # Pages are found a block ahead, so that keys never wait for their place.
            next_page = _load_pages(table_ptr, start + KEYS, end, first_kept, PAGE, KEYS)
            if not EARLY:
                # Read with each block, under a mask that says so, as the first keys would wait for
                # a q that is read once before the loop.
                q = tl.load(q_ptr + q_offsets, mask=row_mask[:, None] & (start < end), other=0.0)
            key = start + tl.arange(0, KEYS)
            visible = key < end
            offsets = _place(page, key - first_kept, KV_HEADS, HEAD_DIM, PAGE)
            keys = tl.load(key_ptr + offsets, mask=visible[:, None], other=0.0)
            values = tl.load(value_ptr + offsets, mask=visible[:, None], other=0.0)
            largest, shares, mixed = _add_keys(
                q, keys, values, visible, scale, largest, shares, mixed
            )
            page = next_page
    total = tl.sum(shares, 1)

    if WHOLE or parts == 1:
        top = tl.maximum(largest, sink)
        shrink = tl.exp2(largest - top)
        total = total * shrink + tl.exp2(sink - top)
        mixed = mixed * (shrink / total)[:, None]
        tl.store(out_ptr + q_offsets, mixed.to(out_ptr.dtype.element_ty), mask=row_mask[:, None])
    else:
        # Parts of a sequence and key head: [splits, KV_HEADS, GROUP].
        first_part = sequence * splits
        at = ((first_part + split) * KV_HEADS + kv_head) * GROUP + row
        tl.store(largest_ptr + at, largest, mask=row_mask)
        tl.store(total_ptr + at, total, mask=row_mask)
        tl.store(mixed_ptr + at[:, None] * HEAD_DIM + dim[None, :], mixed, mask=row_mask[:, None])
        tl.debug_barrier()  # all threads have stored; the atomic add then releases all of it
        arrived_ptr += sequence * KV_HEADS + kv_head
        if tl.atomic_add(arrived_ptr, 1, sem="acq_rel", scope="gpu") == parts - 1:
            tl.store(arrived_ptr, 0)
            group = tl.arange(0, GROUP)
            mixed_all, total_all = _add_parts(
                mixed_ptr, largest_ptr, total_ptr, sink_ptr + kv_head * GROUP,
                first_part, parts, kv_head, KV_HEADS, GROUP, HEAD_DIM, PARTS,
            )  # fmt: skip
            to = (sequence * HEADS + kv_head * GROUP + group)[:, None] * HEAD_DIM + dim[None, :]
            mixed_all = mixed_all / total_all[:, None]
            tl.store(out_ptr + to, mixed_all.to(out_ptr.dtype.element_ty))


@triton.jit  # type: ignore[untyped-decorator]
def _load_pages(  # type: ignore[no-untyped-def]
    table_ptr, start, end, first_kept, PAGE: tl.constexpr, KEYS: tl.constexpr
):
    """The page of each of the keys start .. start + KEYS - 1; 0 from `end` on."""
    key = start + tl.arange(0, KEYS)
    return tl.load(table_ptr + (key - first_kept) // PAGE, mask=key < end, other=0)


@triton.jit  # type: ignore[untyped-decorator]
def _place(  # type: ignore[no-untyped-def]
    page, kept, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PAGE: tl.constexpr
):
    """Where the elements of keys lie, [keys, HEAD_DIM]; `kept` counts from the first one kept."""
    slot = page.to(tl.int64) * PAGE + kept % PAGE
    return slot[:, None] * (KV_HEADS * HEAD_DIM) + tl.arange(0, HEAD_DIM)[None, :]


@triton.jit
def _add_keys(  # type: ignore[no-untyped-def]
    q, keys, values, visible, scale, largest, shares, mixed
):
    """The running softmax with a block of keys joined to it."""
    scores = tl.dot(q, tl.trans(keys), input_precision="ieee") * scale  # [ROWS, KEYS]
    scores = tl.where(visible[None, :], scores, float("-inf"))
    top = tl.maximum(largest, tl.max(scores, 1))
    shrink = tl.exp2(largest - top)
    new = tl.exp2(scores - top[:, None])
    shares = shares * shrink[:, None] + new
    mixed = mixed * shrink[:, None]
    mixed = tl.dot(new.to(values.dtype), values, mixed, input_precision="ieee")
    return top, shares, mixed


@triton.jit  # type: ignore[untyped-decorator]
def _add_parts(  # type: ignore[no-untyped-def]
    mixed_ptr, largest_ptr, total_ptr, sink_ptr, first_part, parts, kv_head,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Sums over the parts of a sequence, and the sink: mixed [GROUP, HEAD_DIM], total [GROUP].

    Read past the L1 (.cg), which does not see what other processors wrote.
    """
    group = tl.arange(0, GROUP)
    dim = tl.arange(0, HEAD_DIM)
    top = tl.load(sink_ptr + group).to(tl.float32) * LOG2_E
    total = tl.full([GROUP], 1.0, tl.float32)
    mixed = tl.zeros([GROUP, HEAD_DIM], tl.float32)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)
        some = (part < parts)[None, :]
        at = ((first_part + part) * KV_HEADS + kv_head)[None, :] * GROUP + group[:, None]
        largest = tl.load(largest_ptr + at, mask=some, other=LOWEST, cache_modifier=".cg")
        totals = tl.load(total_ptr + at, mask=some, other=0.0, cache_modifier=".cg")
        of_parts = tl.load(
            mixed_ptr + at[:, :, None] * HEAD_DIM + dim[None, None, :],
            mask=some[:, :, None],
            other=0.0,
            cache_modifier=".cg",
        )  # [GROUP, PARTS, HEAD_DIM]: the parts of an element lie in one thread
        new_top = tl.maximum(top, tl.max(largest, 1))
        weight = tl.exp2(largest - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(totals * weight, 1)
        mixed = mixed * shrink[:, None] + tl.sum(of_parts * weight[:, :, None], 1)
        top = new_top
    return mixed, total


@triton.jit  # type: ignore[untyped-decorator]
def _prefetch(pointers, ELEMENTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Ask the L2 for a row of ELEMENTS at each pointer. It changes nothing that can be seen."""
    SIZE: tl.constexpr = ELEMENTS * pointers.dtype.element_ty.primitive_bitwidth // 8
    tl.inline_asm_elementwise(
        "cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0;",
        "=r,l,n",
        [pointers.to(tl.int64), SIZE],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
