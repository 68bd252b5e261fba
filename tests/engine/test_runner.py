"""Batches say where each token's keys are written and read."""

import numpy as np
import pytest
import torch

from ossia.config import ModelConfig
from ossia.engine.kv_cache import CacheConfig, SequencePages
from ossia.engine.runner import UNKNOWN, allocate_caches, build_batch
from ossia.engine.step_plan import ScheduledSequence

from .conftest import request_of

PAGE = 4
CPU = torch.device("cpu")


def sequence(tokens, full, window, window_start, start, count, *, samples=True, write_start=0):
    pages = SequencePages()
    pages.full.extend(full)
    pages.window.extend(window)
    pages.window_start = window_start
    pages.full_write_start = write_start
    return ScheduledSequence(request_of(tokens), pages, start, count, samples)


def example():
    return [
        # Decodes position 9: page 2 of both tables; the window table starts at page 1.
        sequence(list(range(10)), [5, 6, 7], [21, 22], 1, 9, 1),
        # A prompt's chunk, positions 3 to 6, with full pages for later ones already there.
        sequence(list(range(100, 120)), [1, 2, 3, 4, 8], [11, 12], 0, 3, 4, samples=False),
        # Positions 4 to 9, of which 4 to 7 are in a shared full page.
        sequence(list(range(200, 210)), [9, 10, 13], [14, 15], 1, 4, 6, write_start=8),
    ]


def test_tokens_positions_and_rows():
    batch = build_batch(example(), PAGE, CPU)
    assert batch.token_ids.tolist() == [9, 103, 104, 105, 106, *range(204, 210)]
    assert batch.positions.tolist() == [9, 3, 4, 5, 6, 4, 5, 6, 7, 8, 9]
    assert batch.logit_rows.tolist() == [0, 10]
    assert batch.full.query_starts.tolist() == [0, 1, 5, 11]
    assert batch.full.kv_lens.tolist() == [10, 7, 10]
    assert (batch.full.max_query_len, batch.full.max_kv_len) == (6, 10)


def test_a_token_that_the_step_before_samples_is_unknown():
    ahead = sequence(list(range(9)), [5, 6, 7], [21, 22], 1, 9, 1)
    batch = build_batch([example()[0], ahead], PAGE, CPU)
    assert batch.token_ids.tolist() == [9, UNKNOWN]
    assert batch.positions.tolist() == [9, 9]


def test_full_pool_slots_skip_shared_pages():
    full = build_batch(example(), PAGE, CPU).full
    assert full.first_positions.tolist() == [0, 0, 0]
    assert full.page_table.tolist() == [[5, 6, 7], [1, 2, 0], [9, 10, 13]]
    own = [7 * 4 + 1, 1 * 4 + 3, 2 * 4, 2 * 4 + 1, 2 * 4 + 2]
    assert full.slots.tolist() == [*own, 0, 1, 2, 3, 13 * 4, 13 * 4 + 1]


def test_window_pool_counts_from_its_first_page():
    window = build_batch(example(), PAGE, CPU).window
    assert window.first_positions.tolist() == [4, 0, 4]
    assert window.page_table.tolist() == [[21, 22], [11, 12], [14, 15]]
    assert window.slots.tolist() == [
        22 * 4 + 1,
        *(11 * 4 + 3, 12 * 4, 12 * 4 + 1, 12 * 4 + 2),
        *(14 * 4, 14 * 4 + 1, 14 * 4 + 2, 14 * 4 + 3, 15 * 4, 15 * 4 + 1),
    ]


def test_dtypes_are_those_of_the_contract():
    batch = build_batch(example(), PAGE, CPU)
    for tensor in (batch.token_ids, batch.positions, batch.logit_rows, batch.full.slots):
        assert tensor.dtype == torch.int64
    for name in ("page_table", "first_positions", "kv_lens", "query_starts"):
        assert getattr(batch.window, name).dtype == torch.int32


def test_page_tables_may_grow_while_the_batch_is_used():
    items = example()
    batch = build_batch(items, PAGE, CPU)
    before = batch.full.page_table.clone()
    items[0].pages.full.append(99)  # BufferError if the batch still held the array
    assert torch.equal(batch.full.page_table, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_caches_have_the_pages_of_their_pool(dtype):
    model = ModelConfig(hidden_size=64, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=32)
    cache = CacheConfig(PAGE, num_full_pages=7, num_window_pages=5, sliding_window=8)
    caches = allocate_caches(model, cache, dtype, CPU)
    assert [c.keys.shape[0] for c in caches] == [5, 7, 5, 7]
    for layer in caches:
        for tensor in (layer.keys, layer.values):
            assert tensor.shape[1:] == (PAGE, 2, 32)
            assert tensor.dtype == dtype
            assert not np.any(tensor.view(torch.uint8).numpy())
