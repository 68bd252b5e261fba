"""Up to how many tokens which kernels run: where their measured times cross on an H100.

`python -m benchmarks.kernels.dense_few` measures both sides of each.
"""

from __future__ import annotations

QKV_FEW_TOKENS = 64  # qkv/triton_few.py; beyond, qkv/fused_many.py
OUT_FEW_TOKENS = 64  # attention_out/triton_few.py; beyond, attention_out/fused_many.py
HEAD_FEW_ROWS = 16  # lm_head/triton_few.py; beyond, the library's product
ROUTE_FEW_TOKENS = 64  # router/triton_few.py, whose tiles have no more; beyond, triton_many.py
ROUTE_LARGE_TILES = 2048  # tokens from which router/triton_many.py has work for tiles of 64
GROUP_FEW_PAIRS = 256  # up to here router/triton_groups.py takes small blocks
