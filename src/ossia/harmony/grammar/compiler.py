"""Turn grammars that are known to compile: text, checks, limits, and a cache."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict, fields

from ossia.errors import InvalidRequest
from ossia.harmony.grammar.check import GrammarChecker
from ossia.harmony.grammar.faults import is_too_large
from ossia.harmony.grammar.paths import CHAT_PATHS, FieldPaths
from ossia.harmony.grammar.text import TurnGrammar, join_parts, turn_parts
from ossia.harmony.ll_tokenizer import ll_tokenizer
from ossia.harmony.tokenizer import Tokenizer
from ossia.turn import Turn

MAX_CACHED = 1_024  # grammars
MAX_CACHED_CHARACTERS = 64 << 20  # of all cached grammars together


class GrammarCompiler:
    """Makes the grammar of a turn and checks that it compiles. Safe to use from many threads.

    Constructing it takes about 0.7 s. Grammars are kept by content: turns that differ only in their
    messages share one, and threads that want the same one wait for the first of them.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, max_cached_characters: int = MAX_CACHED_CHARACTERS
    ) -> None:
        self.tokenizer = tokenizer
        self.ll_tokenizer = ll_tokenizer(tokenizer)  # an engine in this process can share it
        self._checker = GrammarChecker(self.ll_tokenizer)
        self._max_cached = max_cached_characters
        self._cached: OrderedDict[bytes, TurnGrammar] = OrderedDict()  # oldest use first
        self._characters = 0  # of those
        self._running: dict[bytes, Future[TurnGrammar]] = {}
        self._lock = threading.Lock()

    def compile(self, turn: Turn, paths: FieldPaths = CHAT_PATHS) -> TurnGrammar:
        """The grammar of this turn; `paths` names the request's fields in errors.

        Raises:
            InvalidRequest: a schema or grammar that cannot be enforced; names the place in it.
        """
        key = _content_key(turn, paths)
        with self._lock:
            known = self._cached.get(key)
            if known is not None:
                self._cached.move_to_end(key)
                return known
            other = self._running.get(key)
            if other is None:
                mine: Future[TurnGrammar] = Future()
                self._running[key] = mine
        if other is not None:
            return other.result()
        try:
            grammar = self._compile(turn, paths)
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            mine.set_result(grammar)
            self._keep(key, grammar)
        finally:
            with self._lock:
                del self._running[key]
        return grammar

    def _compile(self, turn: Turn, paths: FieldPaths) -> TurnGrammar:
        parts = turn_parts(turn, paths)
        grammar = join_parts(turn, self.tokenizer, parts)
        error = self._checker.error(grammar.whole)
        suspects = parts if error else [p for p in parts if self._checker.needs_a_trial(p)]
        if parts and is_too_large(error):
            suspects = [max(parts, key=lambda part: len(str(part.grammar())))]
        changed = [self._checker.settle(part) for part in suspects]
        if any(changed):
            grammar = join_parts(turn, self.tokenizer, parts)
            error = self._checker.error(grammar.whole)
        if error:
            raise InvalidRequest(
                "The tools and the response format together make a grammar that is too large; "
                "send fewer or smaller ones.",
                param=paths.tools if turn.tools else paths.output,
                code="grammar_too_large",
            )
        return grammar

    def _keep(self, key: bytes, grammar: TurnGrammar) -> None:
        with self._lock:
            self._cached[key] = grammar
            self._characters += _characters(grammar)
            while len(self._cached) > MAX_CACHED or self._characters > self._max_cached:
                _, oldest = self._cached.popitem(last=False)
                self._characters -= _characters(oldest)


def _characters(grammar: TurnGrammar) -> int:
    return len(grammar.whole) + len(grammar.after_reasoning)


def _content_key(turn: Turn, paths: FieldPaths) -> bytes:
    """A hash of all that the grammar depends on. The order of properties is a part of it."""
    tools = [(tool.name, tool.parameters, tool.strict) for tool in turn.tools]
    output = None
    if turn.output is not None:
        output = [getattr(turn.output, field.name) for field in fields(turn.output)]
    builtins = [(tool.name, tool.parameters) for tool in turn.builtins]
    content = [
        tools,
        builtins,
        asdict(turn.tool_choice),
        turn.parallel_tool_calls,
        output,
        asdict(paths),
    ]
    try:
        text = json.dumps(content, default=_plain)
    except (TypeError, ValueError, RecursionError):
        return os.urandom(32)  # no JSON, so it will be refused
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
