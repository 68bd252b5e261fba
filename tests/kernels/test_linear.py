"""The linear layer of the CPU: a row's bits do not depend on the rows beside it."""

from __future__ import annotations

import pytest
import torch

from ossia.kernels.linear.cpu import linear, rows_are_independent

DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [(256, 768), (512, 256), (256, 16), (64, 2001)], ids=str)
def test_rows_are_the_same_in_any_company(sizes, dtype, threads):
    torch.set_num_threads(threads)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(200, sizes[0], generator=rng).to(dtype)
    weight, bias = (
        torch.randn(*s, generator=rng).to(dtype) for s in ((sizes[1], sizes[0]), (sizes[1],))
    )
    together = linear(x, weight, bias)
    for rows in (1, 2, 3, 4, 5, 7, 8, 13, 31, 100):
        for start in (0, 1, 50):
            some = linear(x[start : start + rows], weight, bias)
            assert torch.equal(some, together[start : start + rows])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_probe_agrees(dtype):
    assert rows_are_independent(dtype)


def test_no_rows_give_no_rows():
    assert linear(torch.zeros(0, 8), torch.zeros(3, 8)).shape == (0, 3)
