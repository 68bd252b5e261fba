"""`ossia serve`: from two configurations to a server that answers, and back to nothing.

The port is taken before the model is loaded, so that a port in use is refused at once; until the
model is there, requests get status 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import shlex
import signal
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from ossia.config import EngineConfig, ServerConfig
from ossia.engine.client import EngineClient, EngineState
from ossia.errors import StartupError

if TYPE_CHECKING:
    from ossia.server.service import Service

logger = logging.getLogger(__name__)

_BACKLOG = 2048  # connections that wait to be accepted
# Longer than clients keep an idle connection (httpx and the OpenAI SDK: 5 seconds). Else a request
# may be sent on one that is just being closed here.
_KEEP_ALIVE_SECONDS = 75
_LAST_WORDS_SECONDS = 2.0  # for answers to say that the server stops


def serve(engine_config: EngineConfig, server_config: ServerConfig) -> None:
    """Serve until SIGINT or SIGTERM, saying on standard output what happens.

    Raises:
        StartupError: the port or the model cannot be had as configured.
    """
    started = time.perf_counter()
    listener = take_port(server_config.host, server_config.port)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_Server(engine_config, server_config, listener, started).run())
    finally:
        listener.close()


def take_port(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is a free one.

    Raises:
        StartupError: it cannot be had; says what to change.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise StartupError(
            f"{host!r} is no address of this machine; try --host 127.0.0.1, or 0.0.0.0 for all."
        ) from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise StartupError(_port_refusal(host, port, error)) from None
    return listener


def _port_refusal(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} on {host} is in use; stop what listens there, "
            f"or choose another with --port {port + 1 if port < 65535 else 8000}."
        )
    if error.errno == errno.EACCES:
        return f"Port {port} needs privileges; choose one of 1024 or more with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine; try --host 127.0.0.1, or 0.0.0.0 for all."
    return f"Port {port} on {host} cannot be had: {error.strerror}."


class _Server:
    """One run of the server: the engine, the HTTP side, and the signals that end both."""

    def __init__(
        self,
        engine_config: EngineConfig,
        config: ServerConfig,
        listener: socket.socket,
        started: float,
    ) -> None:
        self._engine_config = engine_config
        self._config = config
        self._listener = listener
        self._started = started
        self._stop = asyncio.Event()  # first signal
        self._stop_now = asyncio.Event()  # second signal

    async def run(self) -> None:
        with self._signals():
            _say(f"Starting {self._engine_config.model} ...")
            starting = asyncio.create_task(
                EngineClient.start(
                    self._engine_config,
                    _say,
                    self._on_state,
                    prepare_grammars=self._config.turn_grammar,
                )
            )
            # In a thread, because it imports much: the engine process starts meanwhile.
            try:
                service, http = await asyncio.to_thread(
                    _http_side, self._engine_config, self._config
                )
            except BaseException:
                client = await _result_or_cancel(starting)
                if client is not None:
                    await client.close()
                raise
            serving = asyncio.create_task(http.serve(sockets=[self._listener]))
            try:
                await service.start()
                await self._serve(service, starting, serving)
            finally:
                await self._shut_down(starting, serving, http, service)

    async def _serve(
        self,
        service: Service,
        starting: asyncio.Task[EngineClient],
        serving: asyncio.Task[None],
    ) -> None:
        stopping = asyncio.create_task(self._stop.wait())
        await _first(starting, serving, stopping)
        if starting.done():
            service.client = _speaks_harmony(starting.result(), service)
            _say(self._ready_lines(service))
            await _first(serving, stopping)
        stopping.cancel()
        if serving.done():
            serving.result()

    async def _shut_down(
        self,
        starting: asyncio.Task[EngineClient],
        serving: asyncio.Task[None],
        http: Any,
        service: Service,
    ) -> None:
        http.should_exit = True  # lets requests that run come to their end
        client = await _result_or_cancel(starting)
        stop_now = asyncio.create_task(self._stop_now.wait())
        if client is not None and client.num_running and self._stop.is_set():
            _say(
                f"Stopping: {client.num_running} sequences get up to "
                f"{self._config.shutdown_grace:g} s to end. Ctrl-C again stops at once."
            )
        ending = asyncio.create_task(_ended(serving, service))
        await _first(ending, stop_now, timeout=self._config.shutdown_grace)
        ending.cancel()
        await service.close()
        if client is not None:
            await client.close()
        if not serving.done():
            await _first(serving, timeout=_LAST_WORDS_SECONDS)
        stop_now.cancel()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await serving
        _say("Stopped.")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if self._stop.is_set():
                self._stop_now.set()
            self._stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _on_state(self, state: EngineState) -> None:
        if state == "ready":
            logger.warning("The engine answers again.")

    def _ready_lines(self, service: Service) -> str:
        info = service.engine.info
        url = base_url(self._config.host, self._listener.getsockname()[1])
        key = " -H 'Authorization: Bearer YOUR_KEY'" if self._config.api_keys else ""
        messages = [{"role": "user", "content": "Who are you?"}]
        body = msgspec.json.encode({"model": service.model_names[0], "messages": messages}).decode()
        seconds = time.perf_counter() - self._started
        return (
            f"Ready in {seconds:.1f} s: {service.model_names[0]} ({info.architecture}, "
            f"{info.dtype}, {info.device}), context {info.max_model_len} tokens, at {url}\n"
            f"API: {url}/docs   Metrics: {url}/metrics   {self._tools_line(service, url)}"
            "Ctrl-C stops. Try:\n\n"
            f"curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} "
            f"-d {shlex.quote(body)}\n"
        )

    @staticmethod
    def _tools_line(service: Service, url: str) -> str:
        names = ", ".join(tool.name for tool in service.tools.all())
        where = f" (MCP: {url}/mcp)" if service.mcp is not None else ""
        return f"Tools: {names}{where}   " if names else ""


def _speaks_harmony(client: EngineClient, service: Service) -> EngineClient:
    known = client.info.vocab_size
    if known < service.tokenizer.vocab_size:
        raise StartupError(
            f"The model knows {known} token ids and the harmony format needs "
            f"{service.tokenizer.vocab_size}; serve a checkpoint with the whole vocabulary."
        )
    return client


def base_url(host: str, port: int) -> str:
    """Where a client on this machine reaches a server that listens on `host`."""
    local = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)
    if ":" in local and not local.startswith("["):
        local = f"[{local}]"
    return f"http://{local}:{port}"


def _http_side(engine_config: EngineConfig, config: ServerConfig) -> tuple[Service, Any]:
    """The service and its uvicorn server. Takes half a second, most of it imports."""
    import uvicorn

    from ossia.harmony.tokenizer import Tokenizer
    from ossia.server.app import create_app
    from ossia.server.service import Service

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # `_Server` decides what signals mean

    service = Service(engine_config, config, Tokenizer())
    http = Server(
        uvicorn.Config(
            create_app(service),
            access_log=False,  # access_log.py writes one that knows tokens
            log_config=None,
            log_level=logging.WARNING,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )
    )
    return service, http


def _loop_factory() -> Any:
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return None


async def _first(*tasks: asyncio.Task[Any], timeout: float | None = None) -> None:
    await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


async def _ended(serving: asyncio.Task[None], service: Service) -> None:
    """Wait for the last connection, and for responses in the background."""
    await asyncio.wait({serving})
    await service.live.ended()


async def _result_or_cancel(starting: asyncio.Task[EngineClient]) -> EngineClient | None:
    """The engine, if it came to run; otherwise its start is ended and cleaned up."""
    starting.cancel()
    try:
        return await starting
    except (asyncio.CancelledError, Exception):
        return None


def _say(text: str) -> None:
    print(text, flush=True)
