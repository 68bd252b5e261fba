"""Where the CPU library was not built, models run on torch, and the start says so once."""

from __future__ import annotations

import pytest

from ossia.config import EngineConfig
from ossia.engine.messages import Generate
from ossia.engine.start import start_engine
from ossia.kernels.native.library import LIBRARY_VARIABLE
from ossia.sampling import SamplingParams


def test_the_start_says_what_is_missing_and_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ossia.kernels.native.library._FILE_NAMES", ("_not_built.so",))
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    said: list[str] = []
    core = start_engine(EngineConfig(model="demo", device="cpu"), said.append)
    found = [line for text in said for line in text.splitlines() if "C++ compiler" in line]
    assert len(found) == 1
    assert "slower" in found[0]
    core.add(Generate("r", [1, 2, 3], SamplingParams(max_tokens=4, ignore_eos=True)))
    tokens: list[int] = []
    while core.has_work:
        tokens += [token for chunk in core.step().chunks for token in chunk.token_ids]
    assert len(tokens) == 4
