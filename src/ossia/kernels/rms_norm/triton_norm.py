"""RMSNorm on a GPU: out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight.

Bytes to move: 2 * tokens * hidden * itemsize (11.5 KB a token for gpt-oss in bfloat16).
Launch shape: one program a row, which stays in registers between the sum and the product: 4 warps
hold a row of 2,880 in 16-byte pieces.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ossia.kernels.fast_launch import fast_jit
from ossia.kernels.linear.triton_one import pdl_options


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, pdl: bool = False) -> Tensor:
    """Normalise the rows of x.

    Args:
        x: [tokens, hidden], contiguous, any float type; the result has the same.
        weight: [hidden].
        eps: added to the mean square.
        pdl: launch as a programmatic dependent of the kernel before (Hopper and later).
    """
    tokens, hidden = x.shape
    out = torch.empty_like(x)
    _norm[(tokens,)](
        x,
        weight,
        out,
        HIDDEN=hidden,
        EPS=eps,
        BLOCK=triton.next_power_of_2(hidden),
        PDL=pdl,
        num_warps=4,
        **pdl_options(pdl),
    )
    return out


@fast_jit()
def _norm(  # type: ignore[no-untyped-def]
    x_ptr,  # [tokens, HIDDEN]
    weight_ptr,  # [HIDDEN]
    out_ptr,  # [tokens, HIDDEN]
    HIDDEN: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    place = tl.arange(0, BLOCK)
    mask = place < HIDDEN
    weight = tl.load(weight_ptr + place, mask=mask, other=0.0).to(tl.float32)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    start = tl.program_id(0).to(tl.int64) * HIDDEN
    x = tl.load(x_ptr + start + place, mask=mask, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 0) / HIDDEN + EPS)
    tl.store(out_ptr + start + place, (x * scale * weight).to(out_ptr.dtype.element_ty), mask=mask)
