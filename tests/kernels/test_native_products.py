"""Products of the native library against float64, at every level this processor has."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from ossia.kernels.moe.reference import swiglu
from ossia.kernels.native.library import Context, open_context, status
from ossia.kernels.native.matrices import Kind, NativeMatrix, pack_dense, pack_experts
from ossia.kernels.native.operations import linear, linear_top, moe
from ossia.mxfp4 import Mxfp4Tensor, unpack

LEVELS = ("portable", "avx2", "avx-vnni", "avx512", "avx512-vnni", "amx", "neon")
TOKENS = (1, 2, 7, 8, 33)
# Activations as 15-bit integers are off by 2e-5; as bfloat16, for many tokens with AMX, by 2e-3.
EXACT, BFLOAT = 6e-5, 4e-3

pytestmark = pytest.mark.skipif(not status().available, reason="the CPU library was not built")


@pytest.fixture(params=LEVELS)
def context(request: pytest.FixtureRequest) -> Context:
    return context_of(request.param)


def context_of(level: str, threads: int = 2) -> Context:
    if level not in status().levels:
        pytest.skip(f"this processor has no {level}")
    return _opened(level, threads)


@functools.cache
def _opened(level: str, threads: int) -> Context:
    return open_context(level, threads)


def limit(context: Context, tokens: int) -> float:
    return BFLOAT if context.level == "amx" and tokens >= 8 else EXACT


@functools.cache
def random_mxfp4(count: int, rows: int, inputs: int, seed: int = 0) -> Mxfp4Tensor:
    rng = torch.Generator().manual_seed(seed)
    shape = (count, rows, inputs // 32)
    blocks = torch.randint(0, 256, (*shape, 16), generator=rng, dtype=torch.uint8)
    scales = torch.randint(118, 126, shape, generator=rng, dtype=torch.uint8)
    return Mxfp4Tensor(blocks, scales)


def random_x(tokens: int, inputs: int, seed: int = 1) -> Tensor:
    """Activations whose blocks differ in size, as after a norm with learned weights."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, inputs, generator=rng)
    return x * torch.rand(inputs, generator=rng).mul(4).exp()


def error(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found.double() - wanted).norm() / wanted.norm())


def dense_weights(matrix: NativeMatrix) -> Tensor:
    """What an INT8 matrix says, float64 [rows, inputs]."""
    groups, blocks = -(-matrix.rows // 16), matrix.inputs // 32
    values = matrix.values.view(groups, blocks, 8, 16, 4).permute(0, 3, 1, 2, 4).double() - 128
    assert matrix.scales is not None
    scales = matrix.scales.view(-1).view(torch.bfloat16).view(groups, blocks, 16).transpose(1, 2)
    values *= scales[..., None, None].double()
    return values.reshape(groups * 16, matrix.inputs)[: matrix.rows]


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize(("rows", "inputs"), [(16, 64), (48, 2880), (21, 96), (5760, 64)])
@pytest.mark.parametrize("kind", list(Kind))
def test_linear_is_the_product(
    context: Context, kind: Kind, rows: int, inputs: int, tokens: int
) -> None:
    rng = torch.Generator().manual_seed(2)
    bias = torch.randn(rows, generator=rng)
    residual = torch.randn(tokens, rows, generator=rng)
    x = random_x(tokens, inputs)
    if kind is Kind.MXFP4:
        packed = random_mxfp4(1, rows, inputs)
        weight = unpack(packed, torch.float64)[0]
        matrix = pack_experts(context, packed, bias)
    else:
        given = torch.randn(rows, inputs, generator=rng).bfloat16()
        matrix = pack_dense(context, given, bias, kind)
        weight = dense_weights(matrix) if kind is Kind.INT8 else given.double()
    product = x.double() @ weight.T
    assert error(linear(context, x, matrix), product + bias.double()) < limit(context, tokens)
    with_residual = linear(context, x, matrix, residual)
    wanted = product + bias.double() + residual.double()
    assert error(with_residual, wanted) < limit(context, tokens)


@pytest.mark.parametrize("tokens", TOKENS)
def test_experts_are_the_mixture(context: Context, tokens: int) -> None:
    x = random_x(tokens, 96)
    check_moe(context, x, experts=5, hidden=96, intermediate=160, per_token=3)


def test_experts_of_the_real_size(context: Context) -> None:
    if context.level == "portable":
        pytest.skip("takes seconds")
    check_moe(context, random_x(9, 2880), experts=2, hidden=2880, intermediate=2880, per_token=2)


def check_moe(
    context: Context, x: Tensor, *, experts: int, hidden: int, intermediate: int, per_token: int
) -> None:
    rng = torch.Generator().manual_seed(3)
    tokens = len(x)
    x = x / x.abs().mean()  # so that the clamps of SwiGLU cut some values, not all
    gate_up = random_mxfp4(experts, 2 * intermediate, hidden, 4)
    down = random_mxfp4(experts, hidden, intermediate, 5)
    gate_up_bias = torch.randn(experts, 2 * intermediate, generator=rng)
    down_bias = torch.randn(experts, hidden, generator=rng)
    order = torch.stack([torch.randperm(experts, generator=rng) for _ in range(tokens)])
    chosen = order[:, :per_token].to(torch.int32).contiguous()
    shares = torch.rand(tokens, per_token, generator=rng)
    residual = torch.randn(tokens, hidden, generator=rng)

    wanted = residual.double()
    wide = (unpack(gate_up, torch.float64), unpack(down, torch.float64))
    for t in range(tokens):
        for j in range(per_token):
            e = int(chosen[t, j])
            y = wide[0][e] @ x[t].double() + gate_up_bias[e].double()
            y = wide[1][e] @ swiglu(y, 1.702, 7.0) + down_bias[e].double()
            wanted[t] += shares[t, j].double() * y

    packed = pack_experts(context, gate_up, gate_up_bias), pack_experts(context, down, down_bias)
    found = moe(context, x, shares, chosen, *packed, 1.702, 7.0, residual)
    assert error(found, wanted) < 2 * limit(context, tokens)
    again = moe(context, x, shares, chosen, *packed, 1.702, 7.0, residual)
    assert torch.equal(found, again)
    if context.level != "amx":
        alone = moe(context, x[:1], shares[:1], chosen[:1], *packed, 1.702, 7.0, residual[:1])
        assert torch.equal(alone, found[:1])


@pytest.mark.parametrize("tokens", [1, 3, 33])
def test_top_rows_are_those_of_all_logits(context: Context, tokens: int) -> None:
    rng = torch.Generator().manual_seed(6)
    weight = torch.randn(4001, 64, generator=rng)
    weight[3000:3100] = weight[:100]  # equal logits: the lower row comes first
    matrix = pack_dense(context, weight, kind=Kind.INT8)
    x = random_x(tokens, 64)
    logits = linear(context, x, matrix)
    values, rows = linear_top(context, x, matrix, 20)
    order = logits.argsort(dim=1, descending=True, stable=True)[:, :20]
    assert torch.equal(rows.long(), order)
    assert torch.equal(values, logits.gather(1, order))


def test_bits_do_not_depend_on_threads_or_on_other_tokens(context: Context) -> None:
    rng = torch.Generator().manual_seed(7)
    matrix = pack_dense(context, torch.randn(200, 2880, generator=rng))
    x = random_x(15, 2880)  # 16 and more are many, where AMX rounds otherwise
    together = linear(context, x, matrix)
    alone = torch.cat([linear(context, row[None], matrix) for row in x])
    assert torch.equal(together, alone)
    assert torch.equal(linear(context_of(context.level, 1), x, matrix), together)
    assert torch.equal(linear(context_of(context.level, 5), x, matrix), together)


def test_int8_weights_are_close_to_what_was_given(context: Context) -> None:
    rng = torch.Generator().manual_seed(8)
    weight = torch.randn(64, 256, generator=rng).bfloat16()
    weight[3, :32] = 0
    stored = dense_weights(pack_dense(context, weight))
    assert error(stored, weight.double()) < 6e-3
    assert not stored[3, :32].any()


def test_a_not_a_number_stays_in_its_token(context: Context) -> None:
    matrix = pack_dense(context, torch.randn(32, 64, generator=torch.Generator().manual_seed(9)))
    x = random_x(3, 64)
    x[1, 5] = torch.nan
    out = linear(context, x, matrix)
    assert out[1].isnan().all()
    assert out[[0, 2]].isfinite().all()


def test_wrong_arguments_are_refused(context: Context) -> None:
    matrix = pack_dense(context, torch.ones(16, 64))
    with pytest.raises(ValueError, match="x must be contiguous"):
        linear(context, torch.ones(2, 32), matrix)
    with pytest.raises(ValueError, match="x must be contiguous"):
        linear(context, torch.ones(64, 2).T, matrix)
    with pytest.raises(ValueError, match="multiple of 32"):
        pack_dense(context, torch.ones(16, 40))
    packed = pack_experts(context, random_mxfp4(2, 128, 64), None)
    down = pack_experts(context, random_mxfp4(2, 64, 64), None)
    chosen = torch.tensor([[0, 2]], dtype=torch.int32)
    with pytest.raises(ValueError, match="refused"):
        moe(context, torch.ones(1, 64), torch.ones(1, 2), chosen, packed, down, 1.702, 7.0)
