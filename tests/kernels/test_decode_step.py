"""The begin of a decoding step."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from ossia.kernels.decode_step import reference
from ossia.kernels.decode_step.reference import DecodeBuffers, decode_buffers

ROWS, PAGES, WINDOW, PAGE, HIDDEN = 4, 9, 3, 4, 24


def case(seed: int) -> tuple[DecodeBuffers, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three sequences and a row of padding that repeats the last of them."""
    rng = torch.Generator().manual_seed(seed)
    buffers = decode_buffers(
        ROWS,
        max_pages=PAGES,
        window_pages=WINDOW,
        page_size=PAGE,
        hidden_size=HIDDEN,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    tables = torch.randint(1, 50, (6, PAGES), generator=rng, dtype=torch.int32)
    last_tokens = torch.randint(0, 30, (6,), generator=rng, dtype=torch.int32)
    positions = [0, 3 * PAGE, 2 * PAGE + 1, 2 * PAGE + 1]
    slots = [5, 0, 3, 3]
    for r in range(ROWS):
        first = max(0, positions[r] // PAGE - WINDOW + 1) * PAGE
        new_page = 60 + r if positions[r] % PAGE == 0 else -1
        pages = torch.randint(1, 50, (WINDOW,), generator=rng).tolist()
        if r == 3:
            pages = buffers.records[2, reference.WINDOW_PAGES :].tolist()
        record = [slots[r], positions[r], 7 if r == 1 else -1, new_page, first, int(r == 3)]
        buffers.records[r] = torch.tensor(record + pages)
    return buffers, tables, last_tokens, torch.randn(30, HIDDEN, generator=rng)


def test_tokens_come_from_the_step_before_unless_given():
    buffers, tables, last_tokens, embedding = case(0)
    reference.begin_decode(buffers, tables, last_tokens, embedding)
    assert buffers.batch.token_ids.tolist() == [last_tokens[5], 7, last_tokens[3], last_tokens[3]]
    assert torch.equal(buffers.x[1], embedding[7])


def test_new_keys_go_behind_the_last_ones_and_those_of_padding_to_the_scratch_page():
    buffers, tables, last_tokens, embedding = case(1)
    old = tables.clone()
    reference.begin_decode(buffers, tables, last_tokens, embedding)
    assert buffers.batch.full.slots.tolist() == [
        60 * PAGE,
        61 * PAGE,
        int(old[3, 2]) * PAGE + 1,
        1,
    ]
    assert tables[5, 0] == 60
    assert tables[0, 3] == 61
    assert buffers.batch.full.page_table[1, :4].tolist() == [*old[0, :3].tolist(), 61]
    assert buffers.batch.full.kv_lens.tolist() == [1, 13, 10, 10]
    assert buffers.batch.window.slots[3] == 1


def test_the_triton_kernel_agrees_with_the_reference():
    pytest.importorskip("triton")
    code = (
        "import torch, tests_decode_step as t\n"
        "from ossia.kernels.decode_step import reference\n"
        "from ossia.kernels.decode_step.triton_begin import begin_decode\n"
        "for seed in range(3):\n"
        "    ours, truth = t.case(seed), t.case(seed)\n"
        "    begin_decode(*ours)\n"
        "    reference.begin_decode(*truth)\n"
        "    pairs = [(getattr(ours[0], n), getattr(truth[0], n)) for n in ('x', 'slots')]\n"
        "    pairs.append((ours[1], truth[1]))\n"
        "    for name in ('token_ids', 'positions'):\n"
        "        pairs.append((getattr(ours[0].batch, name), getattr(truth[0].batch, name)))\n"
        "    for pool in ('full', 'window'):\n"
        "        for name in ('slots', 'page_table', 'first_positions', 'kv_lens'):\n"
        "            one, other = (getattr(b[0].batch, pool) for b in (ours, truth))\n"
        "            pairs.append((getattr(one, name), getattr(other, name)))\n"
        "    for one, other in pairs:\n"
        "        assert torch.equal(one, other), (one, other)\n"
    )
    loader = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('tests_decode_step', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules['tests_decode_step'] = module\n"
        "spec.loader.exec_module(module)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", loader + code],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
