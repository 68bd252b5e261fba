from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ossia.checkpoint import demo
from ossia.checkpoint.dummy import dummy_part
from ossia.checkpoint.layouts import stored_tensors
from ossia.checkpoint.load import load_weights
from ossia.checkpoint.parts import model_parts
from ossia.checkpoint.resolve import resolve_model
from ossia.config import ModelConfig, model_config_to_hf
from ossia.errors import CheckpointError

STORED = [0, 5, 6, 200, 319]


@pytest.fixture
def packed(tmp_path: Path, tiny: ModelConfig) -> Path:
    """A packed model that knows five of its 320 token ids."""
    directory = tmp_path / "packed"
    directory.mkdir()
    tensors: dict[str, Tensor] = {"token_ids": torch.tensor(STORED, dtype=torch.int32)}
    for part in model_parts(tiny):
        if part.field in ("embedding", "lm_head"):
            part = replace(part, shape=(len(STORED) + 1, tiny.hidden_size))
        stored = stored_tensors("hf", tiny, part)
        sizes = [s.shape[0] for s in stored] if len(stored) > 1 else [part.shape[0]]
        values = torch.split(dummy_part(part, 0), sizes)
        tensors |= {s.name: v.contiguous() for s, v in zip(stored, values, strict=True)}
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(model_config_to_hf(tiny)))
    return directory


def test_known_ids_get_their_rows_and_all_others_the_last(packed: Path, tmp_path: Path) -> None:
    expanded = demo.expand(packed=packed, cache=tmp_path / "cache")
    before = load_file(packed / "model.safetensors")
    after = load_file(expanded / "model.safetensors")
    assert after.keys() == before.keys() - {"token_ids"}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert after[name].shape == (320, 64)
        assert after[name].dtype == torch.bfloat16
        for row in range(320):
            source = STORED.index(row) if row in STORED else len(STORED)
            assert torch.equal(after[name][row], before[name][source])
    others = after.keys() - {"model.embed_tokens.weight", "lm_head.weight"}
    assert all(torch.equal(after[name], before[name]) for name in others)


def test_the_expansion_is_a_checkpoint_that_loads(
    packed: Path, tmp_path: Path, tiny: ModelConfig
) -> None:
    source = resolve_model(str(demo.expand(packed=packed, cache=tmp_path / "cache")))
    assert source.config == tiny
    weights = load_weights(source, dtype=torch.bfloat16, device=torch.device("cpu"))
    assert weights.lm_head.shape == (320, 64)


def test_it_is_expanded_once(packed: Path, tmp_path: Path) -> None:
    told: list[str] = []
    first = demo.expand(told.append, packed=packed, cache=tmp_path / "cache")
    inode = (first / "model.safetensors").stat().st_ino
    second = demo.expand(told.append, packed=packed, cache=tmp_path / "cache")
    assert first == second
    assert (second / "model.safetensors").stat().st_ino == inode
    assert told == [f"Expanding the demo model into {first}"]


def test_other_packed_files_get_another_expansion(packed: Path, tmp_path: Path) -> None:
    first = demo.expand(packed=packed, cache=tmp_path / "cache")
    config = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-6}))
    second = demo.expand(packed=packed, cache=tmp_path / "cache")
    assert first != second
    assert first.is_dir()


@pytest.mark.parametrize("damage", ["truncated", "changed", "removed", "no stamp", "bad stamp"])
def test_a_damaged_expansion_is_made_anew(packed: Path, tmp_path: Path, damage: str) -> None:
    expanded = demo.expand(packed=packed, cache=tmp_path / "cache")
    weights, stamp = expanded / "model.safetensors", expanded / "expanded.json"
    content = weights.read_bytes()
    if damage == "truncated":
        weights.write_bytes(content[:-1])
    elif damage == "changed":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "removed":
        weights.unlink()
    elif damage == "no stamp":
        stamp.unlink()
    else:
        stamp.write_text("[]")
    assert demo.expand(packed=packed, cache=tmp_path / "cache") == expanded
    assert weights.read_bytes() == content
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [expanded.name]


@pytest.mark.parametrize("damaged", [False, True])
def test_expanding_at_the_same_time_gives_one_intact_expansion(
    packed: Path, tmp_path: Path, damaged: bool
) -> None:
    cache = tmp_path / "cache"
    if damaged:
        (demo.expand(packed=packed, cache=cache) / "config.json").unlink()
    barrier = threading.Barrier(8)
    results: list[Path | Exception] = []

    def run() -> None:
        barrier.wait()
        try:
            results.append(demo.expand(packed=packed, cache=cache))
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 1
    assert isinstance(results[0], Path)
    assert [p.name for p in cache.iterdir()] == [results[0].name]
    assert demo.expand(packed=packed, cache=cache) == results[0]


def test_what_a_killed_process_left_is_removed_after_an_hour(packed: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for name, age in (("demo-old.tmp", 7200), ("demo-new.tmp", 60)):
        (cache / name).mkdir(parents=True)
        os.utime(cache / name, (time.time() - age,) * 2)
    expanded = demo.expand(packed=packed, cache=cache)
    assert {p.name for p in cache.iterdir()} == {"demo-new.tmp", expanded.name}


def test_a_cache_that_cannot_be_written_is_one_sentence(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError) as caught:
        demo.expand(packed=packed, cache=tmp_path / "file")
    assert "set OSSIA_CACHE_DIR to a directory that is writable" in caught.value.message


def test_a_full_disk_is_one_sentence_and_leaves_nothing(packed: Path, tmp_path: Path) -> None:
    import resource

    # A limit on the size of files fails a write in the middle, as a full disk does.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"\(File too large\): set OSSIA_CACHE_DIR"):
            demo.expand(packed=packed, cache=tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "cache").iterdir()) == []


def test_missing_package_files_are_one_sentence(packed: Path, tmp_path: Path) -> None:
    (packed / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing: install"):
        demo.expand(packed=packed, cache=tmp_path)


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OSSIA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform == "linux":
        assert demo.cache_directory() == tmp_path / "xdg" / "ossia"
    monkeypatch.setenv("OSSIA_CACHE_DIR", str(tmp_path / "own"))
    assert demo.cache_directory() == tmp_path / "own"
