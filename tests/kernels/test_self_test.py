"""The self-test at start-up finds wrong kernels and says which."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from ossia.errors import StartupError
from ossia.kernels.select import Kernels, select_kernels
from ossia.kernels.self_test import self_test

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.fixture
def kernels(dtype) -> Kernels:
    return select_kernels(CPU, dtype)


def test_the_kernels_of_this_machine_pass_quickly(kernels, dtype):
    self_test(kernels, CPU, dtype)
    started = time.thread_time()
    self_test(kernels, CPU, dtype)
    assert time.thread_time() - started < 0.1  # seconds


def test_a_window_that_is_one_key_too_wide_is_found(kernels, dtype):
    def wide(paged, page_size, kv_heads, window):
        return kernels.prepare_attention(paged, page_size, kv_heads, window and window + 1)

    with pytest.raises(StartupError, match=r"The attention \(TORCH, window\) kernel gives wrong"):
        self_test(replace(kernels, prepare_attention=wide), CPU, dtype)


def test_forgotten_sinks_are_found(kernels, dtype):
    def without(*step):
        attend = kernels.prepare_attention(*step)
        return lambda q, k, v, cache, sinks, scale: attend(q, k, v, cache, sinks - 100, scale)

    with pytest.raises(StartupError, match=r"attention \(TORCH, window\)"):
        self_test(replace(kernels, prepare_attention=without), CPU, dtype)


def test_attention_that_is_wrong_only_where_all_decode_is_found(kernels, dtype):
    def off(paged, *sizes):
        attend = kernels.prepare_attention(paged, *sizes)
        return attend if paged.max_query_len > 1 else lambda *a: attend(*a) * 1.2

    with pytest.raises(StartupError, match=r"attention \(TORCH, window\)"):
        self_test(replace(kernels, prepare_attention=off), CPU, dtype)


def test_experts_that_are_wrong_only_for_many_tokens_are_found(kernels, dtype):
    def off(x, *arguments):
        return kernels.run_experts(x, *arguments) * (1.2 if len(x) * 4 > 16 * 8 else 1)

    with pytest.raises(StartupError, match="The moe kernel gives wrong"):
        self_test(replace(kernels, run_experts=off), CPU, dtype)


@pytest.mark.parametrize(
    ("kernel", "named"),
    [
        ("linear", "linear"),
        ("rms_norm", "rms_norm"),
        ("rotate", "rotary"),
        ("run_experts", "moe"),
    ],
)
@pytest.mark.parametrize("broken", [lambda x: x * 1.2, lambda x: x * torch.nan], ids=["off", "NaN"])
def test_other_broken_kernels_are_named(kernels, dtype, kernel, named, broken):
    good = getattr(kernels, kernel)

    def bad(*arguments):
        return broken(good(*arguments))

    with pytest.raises(StartupError, match=f"The {named} kernel gives wrong numbers on cpu"):
        self_test(replace(kernels, **{kernel: bad}), CPU, dtype)
