"""Turns that this server generated, remembered so that a conversation goes on with their tokens.

A client sends the whole conversation each time, mostly without the chain of thought. An assistant
message that this server wrote is recognised by the ids of its tool calls, or by the conversation
that it answered, and is replaced by the very tokens of then: the reasoning between tool calls is
kept, and the prefix cache hits. What the client has changed is taken as the client sent it.
"""

from __future__ import annotations

import hashlib
import json
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ossia.turn import (
    AssistantMessage,
    GeneratedTokens,
    Instructions,
    Item,
    Reasoning,
    ToolCall,
    ToolResult,
    UserMessage,
)

MAX_TOKENS = 4_000_000  # 16 MB of ids
MAX_AGE = 24 * 3600.0  # seconds since a turn was last used
_OVERHEAD = 64  # tokens that a turn counts for besides its own: its keys take memory too

ConversationKey = bytes
_EMPTY: ConversationKey = b""


@dataclass(frozen=True, slots=True)
class SentTurn:
    """A whole turn as the client was sent it, with the tokens that it was read from."""

    token_ids: Sequence[int]  # from after `<|start|>assistant` to the stop token
    content: str
    reasoning: str
    calls: Sequence[ToolCall]


@dataclass(frozen=True, slots=True)
class Recalled:
    """A conversation with the turns that are remembered in it."""

    items: tuple[Item, ...]
    key: ConversationKey  # of the conversation as the client sent it, for `remember`


@dataclass(slots=True)
class _Kept:
    tokens: array[int]
    content: bytes  # digest
    reasoning: bytes  # digest
    calls: bytes  # digest
    call_ids: tuple[str, ...]
    conversation: ConversationKey  # up to and with this turn
    used_at: float = 0.0  # seconds

    @property
    def weight(self) -> int:
        return len(self.tokens) + _OVERHEAD


@dataclass(slots=True)
class _Sent:
    """An assistant message of a request."""

    items: list[Item]
    content: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)


class TurnMemory:
    """The turns used last, bounded by their tokens and their age. For one thread."""

    def __init__(
        self,
        max_tokens: int = MAX_TOKENS,
        max_age: float = MAX_AGE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`max_age` in seconds of `clock`."""
        self._max_tokens = max_tokens
        self._max_age = max_age
        self._clock = clock
        self._weight = 0
        self._kept: OrderedDict[int, _Kept] = OrderedDict()  # by identity, used last at the end
        self._by_call: dict[str, _Kept] = {}
        self._by_conversation: dict[ConversationKey, _Kept] = {}

    def __len__(self) -> int:
        """How many turns are remembered."""
        return len(self._kept)

    def remember(self, answered: ConversationKey, turn: SentTurn) -> None:
        """Keep a turn that ended by itself, the answer to the conversation with this key."""
        kept = _Kept(
            tokens=array("I", turn.token_ids),
            content=_digest(turn.content),
            reasoning=_digest(turn.reasoning),
            calls=_calls_digest(turn.calls),
            call_ids=tuple(call.call_id for call in turn.calls if call.call_id),
            conversation=_after_turn(answered, turn.content, turn.calls),
        )
        same = self._by_conversation.get(kept.conversation)
        if same is not None and not same.call_ids:
            self._forget(same)  # nothing leads to it any more
        self._kept[id(kept)] = kept
        self._weight += kept.weight
        self._by_conversation[kept.conversation] = kept
        self._by_call.update(dict.fromkeys(kept.call_ids, kept))
        self._touch(kept)
        self._shrink()

    def recall(self, items: Sequence[Item]) -> Recalled:
        """The conversation with what this server wrote in it replaced by the tokens of then."""
        self._shrink()
        key = _EMPTY
        out: list[Item] = []
        position = 0
        while position < len(items):
            sent = _assistant_message(items, position)
            if sent is None:
                key = _after_item(key, items[position])
                out.append(items[position])
                position += 1
                continue
            position += len(sent.items)
            kept = None
            if sent.content or sent.calls:
                key = _after_turn(key, sent.content, sent.calls)
                kept = self._find(sent, key)
            if kept is None:
                out += sent.items
            else:
                self._touch(kept)
                out.append(GeneratedTokens(tuple(kept.tokens)))
        return Recalled(tuple(out), key)

    def _find(self, sent: _Sent, conversation: ConversationKey) -> _Kept | None:
        ids = tuple(call.call_id for call in sent.calls)
        kept = self._by_call.get(ids[0]) if ids else None
        if kept is None or kept.call_ids != ids:
            # No calls, calls without ids, or with ids of the client's own.
            kept = self._by_conversation.get(conversation)
        if kept is None or kept.calls != _calls_digest(sent.calls):
            return None
        # A client that leaves out what it does not show has not changed it.
        same_text = not sent.content or kept.content == _digest(sent.content)
        same_thought = not sent.reasoning or kept.reasoning == _digest(sent.reasoning)
        return kept if same_text and same_thought else None

    def _touch(self, kept: _Kept) -> None:
        kept.used_at = self._clock()
        self._kept.move_to_end(id(kept))

    def _shrink(self) -> None:
        too_old = self._clock() - self._max_age
        while self._kept:
            oldest = next(iter(self._kept.values()))
            if self._weight <= self._max_tokens and oldest.used_at >= too_old:
                return
            self._forget(oldest)

    def _forget(self, kept: _Kept) -> None:
        del self._kept[id(kept)]
        self._weight -= kept.weight
        if self._by_conversation.get(kept.conversation) is kept:
            del self._by_conversation[kept.conversation]
        for call_id in kept.call_ids:
            if self._by_call.get(call_id) is kept:
                del self._by_call[call_id]


def _assistant_message(items: Sequence[Item], start: int) -> _Sent | None:
    """The items from `start` on that come from one assistant message: thought, text, calls."""
    sent = _Sent([])
    for position in range(start, len(items)):
        item = items[position]
        match item:
            case Reasoning(text) if not sent.items:
                sent.reasoning = text
            case AssistantMessage(text) if not (sent.content or sent.calls):
                sent.content = text
            case ToolCall():
                sent.calls.append(item)
            case _:
                break
        sent.items.append(item)
        if isinstance(item, AssistantMessage) and item.channel == "final":
            break
    return sent if sent.items else None


def _after_item(key: ConversationKey, item: Item) -> ConversationKey:
    match item:
        case Instructions(text) | UserMessage(text):
            return _digest(key, type(item).__name__, text)
        case ToolResult(name=name, output=output):
            return _digest(key, "result", name, output)
        case GeneratedTokens(token_ids):
            return _digest(key, "tokens", array("I", token_ids).tobytes())
        case _:
            return _digest(key, repr(item))


def _after_turn(key: ConversationKey, content: str, calls: Sequence[ToolCall]) -> ConversationKey:
    # Neither the thought nor the ids of calls count: clients drop the one and rename the other.
    return _digest(key, "assistant", content, _calls_digest(calls))


def _calls_digest(calls: Sequence[ToolCall]) -> bytes:
    return _digest(*(text for call in calls for text in (call.name, _canonical(call.arguments))))


def _canonical(arguments: str) -> str:
    """The same for arguments that mean the same: clients read and write the JSON text again."""
    try:
        return json.dumps(json.loads(arguments), sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return arguments


def _digest(*parts: str | bytes) -> bytes:
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.digest()
