"""What the handlers of one server share."""

from __future__ import annotations

import datetime
from pathlib import Path

from ossia.config import EngineConfig, ServerConfig
from ossia.engine.client import EngineClient
from ossia.engine.messages import EngineStats
from ossia.errors import EngineUnavailable, ModelNotFound, Overloaded
from ossia.harmony.tokenizer import Tokenizer
from ossia.server.grammar_threads import GrammarThreads
from ossia.server.metrics import Metrics
from ossia.server.responses.live import LiveResponses
from ossia.server.responses.reasoning_seal import ReasoningSeal
from ossia.server.server_tools import server_tools
from ossia.server.storage import Storage
from ossia.server.turn_memory import TurnMemory
from ossia.store.store import Store
from ossia.tools.mcp.app import McpApp, mcp_app


class Service:
    """One served model. Requests are refused until `client` is set, which says it is loaded.

    Attributes:
        created: when the server started, in seconds since 1970.
        model_names: what requests may call the model; the first one is its name in answers.
        grammars: makes the constraints of turns; None if the turn grammar is off.
        memory: turns that were generated here.
        live: responses that run.
        tools: what the server can run itself.
        mcp: offers the tools to MCP clients; None if that is off.
    """

    def __init__(self, engine: EngineConfig, config: ServerConfig, tokenizer: Tokenizer) -> None:
        """Reads the configuration of the tools; nothing is opened before `start`.

        Raises:
            ConfigError: a tool that cannot be had as configured.
        """
        self.config = config
        self.tokenizer = tokenizer
        self.client: EngineClient | None = None
        self.created = int(datetime.datetime.now(datetime.UTC).timestamp())
        self.model_names = config.served_model_names or (default_model_name(engine.model),)
        self.metrics = Metrics(
            stats=lambda: self.client.stats if self.client else EngineStats(),
            restarts=lambda: self.client.restarts if self.client else 0,
            streams=lambda: self.client.num_running if self.client else 0,
        )
        self.memory = TurnMemory()
        self.grammars: GrammarThreads | None = None
        if config.turn_grammar:
            self.grammars = GrammarThreads(tokenizer, self.metrics.grammar_refusals.inc)
        self.live = LiveResponses()
        self.tools = server_tools(config)
        self.mcp: McpApp | None = None
        if config.mcp_tool_server:
            self.mcp = mcp_app(self.tools.own, allowed_hosts=[config.host, *config.allowed_hosts])
        self._storage: Storage | None = None

    async def start(self) -> None:
        """Open the store of responses and connect to tool servers.

        Raises:
            StartupError: the store cannot be had as configured.
        """
        self._storage = await Storage.open(self.config)
        await self.tools.start()

    async def close(self) -> None:
        """End what runs, and give back everything that `start` took."""
        await self.live.close()
        if self.mcp is not None:
            await self.mcp.stop()
        await self.tools.close()
        if self._storage is not None:
            await self._storage.close()

    @property
    def store(self) -> Store:
        """Responses and conversations.

        Raises:
            EngineUnavailable: it is still being opened.
        """
        return self._opened().store

    @property
    def seal(self) -> ReasoningSeal:
        """Seals reasoning that clients carry.

        Raises:
            EngineUnavailable: its key is still being read.
        """
        return self._opened().seal

    def _opened(self) -> Storage:
        if self._storage is None:
            raise EngineUnavailable("The server is still starting; please retry in a moment.")
        return self._storage

    @property
    def engine(self) -> EngineClient:
        """The engine.

        Raises:
            EngineUnavailable: it is still loading the model.
        """
        if self.client is None:
            raise EngineUnavailable("The model is still loading; please retry in a moment.")
        return self.client

    def check_model(self, name: str | None) -> str:
        """The name to answer with; no name means the served model.

        Raises:
            ModelNotFound: another model is asked for.
        """
        if name is None:
            return self.model_names[0]
        if name not in self.model_names:
            served = " or ".join(repr(known) for known in self.model_names)
            raise ModelNotFound(
                f"This server has no model {name[:200]!r}; it serves {served}.", param="model"
            )
        return name

    def admit(self, sequences: int) -> None:
        """Let a request for so many more sequences in.

        Raises:
            Overloaded: the queue is full, or is too short for all of them.
        """
        engine = self.engine
        room = engine.info.max_num_seqs + self.config.max_waiting - engine.num_running
        if sequences > room:
            raise Overloaded(
                f"The server is busy: {engine.num_running} sequences run or wait and this request "
                f"asks for {sequences} more; please retry later."
            )

    def date(self) -> datetime.date | None:
        """The date that the model is told."""
        chosen = self.config.prompt_date
        if chosen == "none":
            return None
        if chosen == "today":
            return datetime.datetime.now(datetime.UTC).date()
        return datetime.date.fromisoformat(chosen)


def default_model_name(model: str) -> str:
    """A directory is called by its last part; everything else by its own name."""
    path = Path(model).expanduser()
    return path.resolve().name or model if path.is_dir() else model
