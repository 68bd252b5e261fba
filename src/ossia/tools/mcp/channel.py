"""A server that is spoken to whenever there is something to say: links come and go behind it.

A link is opened when it is needed and opened again when it has ended, because the server was
restarted or its process has crashed. A call is repeated only if the server cannot have begun with
it, or says itself that a repeat does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ossia.tools.addresses import AddressRules, ForbiddenAddress
from ossia.tools.mcp.remote import ConnectionLost, NotRun, RemoteTool
from ossia.tools.mcp.spec import McpServerSpec, McpUnavailable
from ossia.tools.tool import ToolError, ToolOutput

if TYPE_CHECKING:
    from ossia.tools.mcp.link import Link

_BACKOFF_SECONDS = 0.5  # before the one repeat


class Channel:
    """One server, for all who use it."""

    def __init__(
        self, spec: McpServerSpec, rules: AddressRules, *, idle_seconds: float | None = None
    ) -> None:
        """`idle_seconds`: after that long without a call the link is ended, until the next one."""
        self._spec = spec
        self._rules = rules
        self._idle_seconds = idle_seconds
        self._link: Link | None = None
        self._opening: asyncio.Task[Link] | None = None
        self._retired: dict[asyncio.Task[None], Link] = {}  # links that end, by who ends them
        self._idle_timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.calls = 0  # that run now
        self.tools: Sequence[RemoteTool] = ()  # as the server listed them last

    @property
    def linked(self) -> bool:
        """Whether there is a connection right now."""
        return self._link is not None and not self._link.ended

    async def open(self) -> None:
        """Connect if it is not connected.

        Raises:
            McpUnavailable: the server cannot be had.
            ForbiddenAddress: the rules refuse its address.
        """
        await self._linked()

    async def call(
        self, tool: RemoteTool, arguments: Mapping[str, Any], timeout: float, progress: Progress
    ) -> ToolOutput:
        """Call a tool of the server. `timeout` in seconds.

        Raises:
            ToolError: it failed, or could not be called.
        """
        self.calls += 1
        try:
            try:
                return await self._try(tool, arguments, timeout, progress)
            except _Again as again:
                await asyncio.sleep(again.wait)
            try:
                return await self._try(tool, arguments, timeout, progress)
            except _Again as again:
                raise ToolError(again.sentence) from None
        finally:
            self.calls -= 1
            self._watch_idleness()

    async def close(self) -> None:
        """End the link. The channel cannot be used any more."""
        self._closed = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        self._drop(self._link)
        goodbyes = dict(self._retired)
        for link in goodbyes.values():
            link.end()
        if goodbyes:
            await asyncio.wait(goodbyes)

    async def _try(
        self, tool: RemoteTool, arguments: Mapping[str, Any], timeout: float, progress: Progress
    ) -> ToolOutput:
        server = f"The MCP server {self._spec.label!r}"
        try:
            link = await self._linked()
        except McpUnavailable as error:
            raise _Again(error.message, _BACKOFF_SECONDS) from None
        except ForbiddenAddress as error:
            raise ToolError(error.message) from None
        try:
            return await link.call(tool.name, arguments, timeout, progress)
        except NotRun as error:
            if error.session_gone:
                self._drop(link)
            wait = 0.0 if error.session_gone else _BACKOFF_SECONDS
            raise _Again(f"{server} {error.reason}.", wait) from None
        except ConnectionLost:
            if self._spec.transport != "streamable_http":
                self._drop(link)  # there, other calls have connections of their own
            sentence = (
                f"{server} ended the connection during the call of {tool.name!r}; "
                "it may or may not have done what was asked."
            )
            if tool.repeatable:
                raise _Again(sentence, _BACKOFF_SECONDS) from None
            raise ToolError(sentence) from None

    async def _linked(self) -> Link:
        if self._closed:
            raise McpUnavailable(f"The connection to {self._spec.label!r} was closed.")
        if self._link is not None and not self._link.ended:
            return self._link
        self._drop(self._link)
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(_look_at_error)
        # Whoever is cancelled while waiting leaves the others their connection.
        return await asyncio.shield(self._opening)

    async def _open(self) -> Link:
        try:
            # In a thread, because importing the SDK takes most of a second.
            module = await asyncio.to_thread(importlib.import_module, "ossia.tools.mcp.link")
            link: Link = await module.Link.open(self._spec, self._rules, self._set_tools)
            self._link = link
            self._watch_idleness()
            return link
        finally:
            self._opening = None

    def _set_tools(self, tools: Sequence[RemoteTool]) -> None:
        self.tools = tuple(tools)

    def _drop(self, link: Link | None) -> None:
        if link is None:
            return
        if self._link is link:
            self._link = None
        # A server that has forgotten our session may still answer the other calls.
        task = asyncio.create_task(link.retire())
        self._retired[task] = link
        task.add_done_callback(self._retired.pop)

    def _watch_idleness(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self._idle_seconds is not None and not self._closed:
            loop = asyncio.get_running_loop()
            self._idle_timer = loop.call_later(self._idle_seconds, self._rest)

    def _rest(self) -> None:
        if not self.calls:
            self._drop(self._link)


Progress = Callable[[str], None]


class _Again(Exception):
    """The call may be made once more, after `wait` seconds; else `sentence` is the answer."""

    def __init__(self, sentence: str, wait: float) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.wait = wait


def _look_at_error(task: asyncio.Task[Link]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()  # so that asyncio does not report one that nobody waited for
