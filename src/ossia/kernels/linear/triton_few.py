"""What the products of a few tokens share (qkv/, attention_out/, lm_head/).

Computes y[r, t] = sum_k w[r, k] x[t, k] for the rows r of one program and a tile of tokens, in
float32, with matrix instructions: weights are their M side and tokens their N side, because there
are many rows and few tokens.

Bytes to move: each weight once, 2 a weight in bfloat16. Every program reads the tokens too, from
the L2: tokens * inputs * 2 bytes a program, as much as its weights when it has as many tokens as
rows. So tiles have more rows when there are more tokens.

Launch shape: a program has `rows` rows, `tokens` tokens and one of `splits` ranges of the columns,
which it walks `columns` at a time with `stages` loads in flight: 132 multiprocessors need some
20 KB each on the way to draw 3 TB/s. With splits > 1 programs write float32 partial sums, and a
second launch adds them in a fixed order. Tiles come by asynchronous copies of 16 bytes a thread,
or, with `tma`, as whole boxes by the copy engine. With programmatic dependent launch a program asks
the L2 for its first `ahead` tiles of weights before it waits for the kernel ahead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


@dataclass(frozen=True, slots=True)
class FewShape:
    """How a product of a few tokens is cut into programs. All but `splits` are powers of two."""

    rows: int  # of the weight, a program; at least 16, and 64 for warp-group instructions
    tokens: int  # a program
    columns: int = 64  # of weights and tokens, loaded at a time
    stages: int = 5  # such loads in flight, and the one in use
    warps: int = 4
    splits: int = 1  # ranges of the columns
    tma: bool = False
    ahead: int = 0  # tiles asked for before the wait; only with programmatic dependent launch

    def grid(self, rows: int, tokens: int) -> tuple[int, int, int]:
        """Programs by tiles of rows, by splits, and by tiles of tokens."""
        return rows // self.rows, self.splits, -(-tokens // self.tokens)

    def partial(self, tokens: int, rows: int, device: torch.device) -> Tensor:
        """Room for the partial sums: float32 [splits, tokens, rows]."""
        return torch.empty((self.splits, tokens, rows), dtype=torch.float32, device=device)


def sources(weight: Tensor, x: Tensor, shape: FewShape) -> tuple[Any, Any]:
    """What the kernel reads tiles from: the tensors themselves, or descriptors of their boxes."""
    if not shape.tma:
        return weight, x
    return (
        TensorDescriptor.from_tensor(weight, [shape.rows, shape.columns]),
        TensorDescriptor.from_tensor(x, [shape.tokens, shape.columns]),
    )


@triton.jit  # type: ignore[untyped-decorator]
def columns_of_split(split, INPUTS: tl.constexpr, COLUMNS: tl.constexpr, SPLITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The range of columns of a split: multiples of COLUMNS, but for the end of the row."""
    A_SPLIT: tl.constexpr = triton.cdiv(triton.cdiv(INPUTS, COLUMNS), SPLITS) * COLUMNS
    return split * A_SPLIT, tl.minimum((split + 1) * A_SPLIT, INPUTS)


@triton.jit  # type: ignore[untyped-decorator]
def ask_ahead(  # type: ignore[no-untyped-def]
    weight_ptr, row, begin, INPUTS: tl.constexpr, COLUMNS: tl.constexpr, AHEAD: tl.constexpr
):
    """Have the L2 fetch the first AHEAD tiles of the weights, 128 bytes (64 weights) a request."""
    column = begin + tl.arange(0, AHEAD * COLUMNS // 64) * 64
    column = tl.minimum(column, INPUTS - 1)
    ptrs = weight_ptr + row.to(tl.int64)[:, None] * INPUTS + column[None, :]
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
        "=r,l",
        [ptrs.to(tl.int64)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit  # type: ignore[untyped-decorator]
def product(  # type: ignore[no-untyped-def]
    weight,  # pointer to [rows, INPUTS], or a descriptor of it
    x,  # pointer to [count, INPUTS], or a descriptor of it
    first_row,  # of the tile; used with TMA
    row,  # [ROWS], the rows of the tile; used without
    first_token,
    count,
    begin,
    end,
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    TMA: tl.constexpr,
):
    """sum_k w[r, k] x[t, k] over begin <= k < end: float32 [ROWS, TOKENS], 0 past the tokens."""
    total = tl.zeros([ROWS, TOKENS], tl.float32)
    if TMA:
        # Boxes that reach past the end of a tensor are filled with zeros.
        for start in tl.range(begin, end, COLUMNS, num_stages=STAGES):
            weights = weight.load([first_row, start])
            tokens = x.load([first_token, start])
            total = tl.dot(weights, tl.trans(tokens), total)
    else:
        k = tl.arange(0, COLUMNS)
        token = first_token + tl.arange(0, TOKENS)
        weight_ptrs = weight + row.to(tl.int64)[:, None] * INPUTS + k[None, :]
        x_ptrs = x + token[:, None] * INPUTS + k[None, :]
        present = (token < count)[:, None]
        for start in tl.range(begin, end, COLUMNS, num_stages=STAGES):
            if INPUTS % COLUMNS == 0:
                weights = tl.load(weight_ptrs + start)
                tokens = tl.load(x_ptrs + start, mask=present, other=0.0)
            else:
                inside = (start + k < INPUTS)[None, :]
                weights = tl.load(weight_ptrs + start, mask=inside, other=0.0)
                tokens = tl.load(x_ptrs + start, mask=present & inside, other=0.0)
            total = tl.dot(weights, tl.trans(tokens), total, input_precision="ieee")
    return total
