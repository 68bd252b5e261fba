"""The decode kernel against the reference, on a CPU by Triton's interpreter.

The interpreter must be chosen before Triton is first imported, so the tests below run in a process
of their own, which `test_in_the_interpreter` starts. `tests/gpu/test_attention_decode.py` runs the
kernel on a GPU, in bfloat16 too, which the interpreter cannot multiply.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace

import pytest
import torch

from ossia.kernels.attention import reference
from ossia.kernels.attention.interface import write_cache

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETING, reason="run by test_in_the_interpreter")
LENGTHS = [1, 15, 16, 17, 127, 128, 129, 1000]


def test_in_the_interpreter(run_in_the_interpreter):
    run_in_the_interpreter(__file__)


@pytest.fixture
def decode():
    from ossia.kernels.attention import triton_decode

    return triton_decode


def scratch_for(decode, case, *, most_splits=32, room=0):
    """Scratch with partial results that no launch has written."""
    _, heads, head_dim = case.q.shape
    made = decode.DecodeScratch.allocate(
        len(case.paged.kv_lens) + room,
        heads,
        case.k.shape[1],
        head_dim,
        torch.device("cpu"),
        most_splits=most_splits,
    )
    for partial in (made.mixed, made.largest, made.total):
        partial.fill_(torch.nan)
    return made


def run(decode, case, scratch, config=None):
    """`attend_decode` on a cache that holds the new keys and values."""
    write_cache(case.cache, case.paged, case.k, case.v)
    return decode.attend_decode(
        case.q,
        case.cache,
        case.paged,
        case.sinks,
        case.q.shape[-1] ** -0.5,
        case.window,
        scratch,
        config=config,
    )


def config_of(decode, keys, least, most=1024, *, early=True):
    return replace(decode.FULL, keys=keys, least=least, most=most, early=early)


@interpreted
@pytest.mark.parametrize("window", [None, 128, 40])
def test_every_length_matches_the_reference(decode, attention_case, window):
    case = attention_case([n - 1 for n in LENGTHS], [1] * len(LENGTHS), window=window, page_size=16)
    out = run(decode, case, scratch_for(decode, case))
    torch.testing.assert_close(out, case.run(reference.prepare_attention), rtol=1e-5, atol=1e-5)


@interpreted
@pytest.mark.parametrize(
    ("keys", "least", "most", "splits"),
    [(32, 16, 1024, 32), (32, 50, 1024, 5), (64, 1, 1024, 2), (16, 256, 300, 32)],
)
def test_parts_of_any_size_add_up(decode, attention_case, keys, least, most, splits):
    case = attention_case([n - 1 for n in LENGTHS], [1] * len(LENGTHS), page_size=16)
    scratch = scratch_for(decode, case, most_splits=splits)
    out = run(decode, case, scratch, config_of(decode, keys, least, most))
    torch.testing.assert_close(out, case.run(reference.prepare_attention), rtol=1e-5, atol=1e-5)
    assert not scratch.arrived.any()


@interpreted
@pytest.mark.parametrize(
    "shape",
    [
        {"heads": 8, "kv_heads": 1, "head_dim": 64},
        {"heads": 2, "kv_heads": 2, "head_dim": 32, "page_size": 32},
        {"heads": 32, "kv_heads": 1, "head_dim": 16, "page_size": 64},
    ],
    ids=["groups of 8", "groups of 1", "groups of 32"],
)
def test_geometries(decode, attention_case, shape):
    case = attention_case([300, 5], [1, 1], **{"page_size": 16, **shape})
    out = run(decode, case, scratch_for(decode, case))
    torch.testing.assert_close(out, case.run(reference.prepare_attention), rtol=1e-5, atol=1e-5)


@interpreted
def test_random_lengths_and_configurations(decode, attention_case):
    rng = random.Random(0)
    for seed in range(6):
        cached = [rng.choice([0, rng.randrange(40), rng.randrange(700)]) for _ in range(3)]
        window = rng.choice([None, rng.randrange(1, 200)])
        config = config_of(
            decode, rng.choice([32, 64, 128]), rng.choice([16, 64, 128]), early=rng.random() < 0.5
        )
        case = attention_case(cached, [1, 1, 1], window=window, page_size=16, seed=seed)
        out = run(decode, case, scratch_for(decode, case, room=rng.randrange(3)), config)
        torch.testing.assert_close(
            out,
            case.run(reference.prepare_attention),
            rtol=1e-5,
            atol=1e-5,
            msg=lambda text, at=(cached, window, config): f"{at}: {text}",
        )


@interpreted
@pytest.mark.parametrize("window", [None, 128])
def test_the_configuration_of_large_batches(decode, attention_case, window):
    config = decode.FULL_MANY if window is None else decode.WINDOWED_MANY
    case = attention_case([n - 1 for n in LENGTHS], [1] * len(LENGTHS), window=window, page_size=16)
    out = run(decode, case, scratch_for(decode, case, most_splits=1), config)
    torch.testing.assert_close(out, case.run(reference.prepare_attention), rtol=1e-5, atol=1e-5)


@interpreted
@pytest.mark.parametrize("window", [None, 128])
def test_rows_of_padding_become_zero(decode, attention_case, window):
    case = attention_case([200, 0, 60], [1, 1, 1], window=window, page_size=16)
    truth = case.run(reference.prepare_attention)
    write_cache(case.cache, case.paged, case.k, case.v)
    lengths = case.paged.kv_lens.clone()
    lengths[1] = 0
    case.paged.page_table[1] = 0
    case.q[1] = torch.nan
    padded = replace(case, paged=replace(case.paged, kv_lens=lengths))
    out = decode.attend_decode(
        padded.q,
        padded.cache,
        padded.paged,
        padded.sinks,
        16**-0.5,
        window,
        scratch_for(decode, padded),
    )
    torch.testing.assert_close(out[0::2], truth[0::2], rtol=1e-5, atol=1e-5)
    assert out[1].eq(0).all()


@interpreted
def test_the_same_bits_each_time_and_in_a_scratch_that_was_used(decode, attention_case):
    case = attention_case([700, 300, 5], [1, 1, 1], page_size=16)
    scratch = scratch_for(decode, case)
    first = run(decode, case, scratch)
    for _ in range(2):
        assert torch.equal(run(decode, case, scratch), first)


@interpreted
def test_float16_stays_within_rounding(decode, attention_case):
    case = attention_case([400, 0], [1, 1], dtype=torch.float16, page_size=16)
    out = run(decode, case, scratch_for(decode, case))
    torch.testing.assert_close(out, case.run(reference.prepare_attention), rtol=3e-3, atol=3e-3)


@interpreted
def test_the_launch_follows_from_the_number_of_sequences(decode):
    scratch = decode.DecodeScratch.allocate(256, 64, 8, 64, torch.device("cpu"))
    splits = {n: scratch.splits(n) for n in (1, 2, 8, 16, 32, 64, 256)}
    assert splits == {1: 32, 2: 32, 8: 16, 16: 8, 32: 4, 64: 2, 256: 1}
    for n in range(1, 257):
        assert n * scratch.splits(n) <= scratch.mixed.shape[0]


@interpreted
def test_what_the_kernel_cannot_do_is_refused(decode, attention_case):
    case = attention_case([5], [1], heads=3, kv_heads=1, head_dim=16, page_size=16)
    with pytest.raises(ValueError, match="3 query heads"):
        run(decode, case, scratch_for(decode, case))
    case = attention_case([5], [1], heads=2, kv_heads=1, head_dim=24, page_size=16)
    with pytest.raises(ValueError, match="head size 24"):
        run(decode, case, scratch_for(decode, case))
    case = attention_case([5, 6], [1, 1], page_size=16)
    scratch = decode.DecodeScratch.allocate(1, 8, 2, 16, torch.device("cpu"))
    with pytest.raises(ValueError, match="scratch is for 1"):
        run(decode, case, scratch)
