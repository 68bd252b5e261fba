"""Parts that the Responses API is made of, without a server around them."""

from __future__ import annotations

import pytest

from ossia.server.responses.reasoning_seal import ReasoningSeal
from ossia.store.sealing import KEY_BYTES, Sealer


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def seal() -> ReasoningSeal:
    """Of a server whose key is all zeros."""
    return ReasoningSeal(Sealer(bytes(KEY_BYTES)))
