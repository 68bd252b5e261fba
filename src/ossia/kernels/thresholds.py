"""Up to how many tokens which kernels run: where their measured times cross on an H100.

`python -m benchmarks.kernels.dense_few`, `route` and `moe_decode` measure both sides of each.
"""

from __future__ import annotations

QKV_FEW_TOKENS = 64  # qkv/triton_few.py; beyond, qkv/fused_many.py
OUT_FEW_TOKENS = 64  # attention_out/triton_few.py; beyond, attention_out/fused_many.py
OUT_ADD_TOKENS = 512  # attention_out/fused_many.py adds by a kernel of ours; beyond, by torch's
HEAD_FEW_ROWS = 64  # lm_head/triton_few.py; beyond, the library's product
ROUTE_FEW_TOKENS = 64  # router/triton_few.py, whose tiles have no more; beyond, triton_many.py
ROUTE_LARGE_TILES = 2048  # tokens from which router/triton_many.py has work for larger tiles
ROUTE_TRITON_TOKENS = 16  # router/triton_few.py is ahead; beyond, router/cuda_route.py
ROUTE_FUSED_TOKENS = range(48, 257)  # router/cuda_route.py takes one launch; else two
EXPERTS_FEW_ROWS = 16  # an expert, on average, of moe/cuda_decode.py; beyond, cuda_decode_mid.py
EXPERTS_MID_ROWS = 40  # of moe/cuda_decode_mid.py; beyond, moe/cuda_prefill.py
GROUP_FEW_PAIRS = 256  # up to here router/triton_groups.py takes small blocks
GROUP_SOME_PAIRS = 2048  # up to here, medium ones
