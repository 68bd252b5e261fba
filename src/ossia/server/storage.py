"""The store of responses as the server uses it: opened, swept, and never in the way.

Responses that a dead process left behind are ended as failed, at the start and from time to time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from ossia.config import ServerConfig
from ossia.errors import ConfigError, RequestError, StartupError
from ossia.server.responses.body import failed
from ossia.server.responses.events import TERMINAL
from ossia.server.responses.reasoning_seal import ReasoningSeal
from ossia.store.location import default_url
from ossia.store.sealing import Sealer
from ossia.store.store import Store

logger = logging.getLogger(__name__)

MEMORY = "memory"
_MEMORY_URL = "sqlite://"
_KEY_FILE = "response.key"
_SWEEP_SECONDS = 15.0  # between looks for responses of dead processes
_EXPIRE_SECONDS = 3600.0
_DIED = "The server stopped while this response ran; please send the request again."


class Storage:
    """An open store, with the key that seals what clients carry."""

    def __init__(self, store: Store, seal: ReasoningSeal) -> None:
        """Use `open`."""
        self.store = store
        self.seal = seal
        self._sweeping = asyncio.create_task(self._sweep(), name="response-sweep")

    @classmethod
    async def open(cls, config: ServerConfig) -> Storage:
        """The store of this configuration, with what is left of earlier processes put in order.

        Where nobody said where it should be and the user's data folder cannot be written, it is
        in memory: a server without any option has to start.

        Raises:
            StartupError: it cannot be had as configured.
        """
        url = config.response_store or default_url()
        if url == MEMORY:
            url = _MEMORY_URL
        try:
            seal = ReasoningSeal(_sealer(config, url))
            store = await Store.open(url, max_age=config.response_max_age)
        except StartupError as error:
            if config.response_store is not None or isinstance(error, ConfigError):
                raise
            logger.warning("%s Responses are kept in memory until the server stops.", error.message)
            seal = ReasoningSeal(_sealer(config, _MEMORY_URL))
            store = await Store.open(_MEMORY_URL, max_age=config.response_max_age)
        try:
            await end_of_the_dead(store)
        except BaseException:
            await store.close()
            raise
        return cls(store, seal)

    async def close(self) -> None:
        """Close the store. What it keeps in memory is gone."""
        self._sweeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sweeping
        await self.store.close()

    async def _sweep(self) -> None:
        since_expiry = _EXPIRE_SECONDS
        while True:
            try:
                if since_expiry >= _EXPIRE_SECONDS:
                    since_expiry = 0.0
                    if count := await self.store.expire():
                        logger.info("%d expired responses and conversations are deleted.", count)
                await asyncio.sleep(_SWEEP_SECONDS)
                since_expiry += _SWEEP_SECONDS
                await end_of_the_dead(self.store)
            except RequestError as error:
                logger.warning("The store of responses could not be swept: %s", error.message)
                await asyncio.sleep(_SWEEP_SECONDS)


async def end_of_the_dead(store: Store) -> None:
    """End as failed what processes left behind that are no more."""
    for response in await store.recover():
        events = await store.events(response.id)
        error = RequestError(_DIED, code="server_error")
        body = failed(response.body, _written(events), None, error)
        number = events[-1][0] + 1 if events else 0
        last = {"type": TERMINAL["failed"], "response": body, "sequence_number": number}
        await store.append_events(response.id, [(number, msgspec.json.encode(last))])
        await store.finish(replace(response, status="failed", body=body))
        logger.warning("The response %s was under way when its server stopped.", response.id)


def _written(events: Sequence[tuple[int, bytes]]) -> list[dict[str, Any]]:
    """The output items that were whole before the server died."""
    decoded = [msgspec.json.decode(event) for _, event in events]
    done = [event for event in decoded if event["type"] == "response.output_item.done"]
    return [event["item"] for event in sorted(done, key=lambda event: event["output_index"])]


def _sealer(config: ServerConfig, url: str) -> Sealer:
    if config.response_key is not None:
        return Sealer.from_secret(config.response_key)
    if url == _MEMORY_URL:
        return Sealer.from_secret(secrets.token_hex(32))
    return Sealer.from_key_file(Path(platformdirs.user_data_path("ossia")) / _KEY_FILE)
