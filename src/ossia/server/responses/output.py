"""What the model says and what tools answer becomes output items and their events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ossia.answer.assembler import (
    CallArguments,
    CallStart,
    MessageClosed,
    MessageOpened,
    ReasoningText,
    TextToken,
    VisibleText,
)
from ossia.harmony.tokenizer import Tokenizer
from ossia.server.logprobs import chat_logprobs
from ossia.server.responses.calls import OpenCall, open_call
from ossia.server.responses.events import EventSequence
from ossia.server.responses.identifiers import new_id
from ossia.server.responses.reasoning_seal import ReasoningSeal
from ossia.server.responses.tools import ToolListing
from ossia.server.tool_loop import CallDone, CallProgress, LoopEvent
from ossia.server.toolset import Toolset
from ossia.tools.browser.citations import citations
from ossia.tools.checks import plain_json
from ossia.tools.tool import ToolOutput

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """What the client wants to see besides the answer."""

    reasoning: bool = True  # the text of the chain of thought
    summary: bool = False  # the same text as its summary
    encrypted: bool = False  # the same text, sealed
    logprobs: bool = False
    progress: bool = False  # partial output of tools
    code_outputs: bool = False
    sources: bool = False  # of searches


@dataclass(slots=True)
class _Text:
    """A message or a piece of reasoning that is being written."""

    index: int
    id: str
    kind: str  # of MessageOpened
    text: list[str] = field(default_factory=list)
    logprobs: list[JsonObject] = field(default_factory=list)


class OutputWriter:
    """The output of one response. Attributes: output: the items, in order, as they are now."""

    def __init__(
        self,
        sequence: EventSequence,
        toolset: Toolset,
        tokenizer: Tokenizer,
        seal: ReasoningSeal,
        shown: Shown,
        session: str,
    ) -> None:
        """`session` names the container of code in the wire format."""
        self.output: list[JsonObject] = []
        self._sequence = sequence
        self._toolset = toolset
        self._tokenizer = tokenizer
        self._seal = seal
        self._shown = shown
        self._session = session
        self._text: _Text | None = None
        self._writing: OpenCall | None = None  # its arguments come
        self._calls: dict[str, OpenCall] = {}  # that are not done, by call id
        self._pages: dict[str, Mapping[str, str]] = {}  # of the browser, by cursor

    def listing(self, listing: ToolListing) -> Iterator[JsonObject]:
        """Events that tell which tools an MCP server has."""
        index = len(self.output)
        item: JsonObject = {
            "id": new_id("mcpl"),
            "type": "mcp_list_tools",
            "server_label": listing.label,
            "tools": [],
        }
        yield self._add(item)
        yield self._sequence.emit("mcp_list_tools.in_progress", index)
        if listing.error is None:
            tools = [
                {
                    "name": getattr(tool, "remote_name", tool.name),
                    "description": tool.description,
                    "input_schema": plain_json(tool.parameters),
                    "annotations": None,
                }
                for tool in listing.tools
            ]
            yield self._sequence.emit("mcp_list_tools.completed", index)
            yield self._done(index, {**item, "tools": tools})
        else:
            yield self._sequence.emit("mcp_list_tools.failed", index)
            yield self._done(index, {**item, "error": listing.error})

    def approved(self, call_id: str, name: str, arguments: str) -> Iterator[JsonObject]:
        """Events of a call that the client has allowed and that runs now."""
        call = self._open(call_id, name, approval=call_id)
        yield from call.begin()
        yield from call.write(arguments)
        yield from call.written()

    def write(self, event: LoopEvent) -> Iterator[JsonObject]:
        """Events of what happens next."""
        match event:
            case MessageOpened(kind):
                yield from self._open_text(kind)
            case ReasoningText(text):
                yield from self._reasoning(text)
            case VisibleText(text, tokens):
                yield from self._visible(text, tokens)
            case CallStart(_, call_id, name):
                self._writing = self._open(call_id, name)
                yield from self._writing.begin()
            case CallArguments(_, text):
                assert self._writing is not None
                yield from self._writing.write(text)
            case MessageClosed(whole):
                yield from self._close(whole)
            case CallProgress(call_id, text):
                call = self._calls[call_id]
                if self._shown.progress:
                    yield self._sequence.progress(call.index, text)
            case CallDone(call_id, output):
                yield from self._call_done(call_id, output)

    def end(self) -> Iterator[JsonObject]:
        """Close whatever is open, because the response ends here."""
        if self._text is not None or self._writing is not None:
            yield from self._close(whole=False)
        for call in list(self._calls.values()):
            yield from call.abandon()
        self._calls.clear()

    def _add(self, item: JsonObject) -> JsonObject:
        self.output.append(item)
        return self._sequence.emit("output_item.added", len(self.output) - 1, item=item)

    def _done(self, index: int, item: JsonObject) -> JsonObject:
        self.output[index] = item
        return self._sequence.emit("output_item.done", index, item=item)

    def _open_text(self, kind: str) -> Iterator[JsonObject]:
        index = len(self.output)
        if kind == "reasoning":
            text = self._text = _Text(index, new_id("rs"), kind)
            yield self._add(self._reasoning_item(text, "in_progress"))
            if self._shown.reasoning:
                part = {"type": "reasoning_text", "text": ""}
                yield self._sequence.emit("content_part.added", index, content_index=0, part=part)
        else:
            text = self._text = _Text(index, new_id("msg"), kind)
            yield self._add(self._message_item(text, "in_progress", []))
            empty: JsonObject = {"type": "output_text", "text": "", "annotations": []}
            yield self._sequence.emit("content_part.added", index, content_index=0, part=empty)

    def _reasoning(self, delta: str) -> Iterator[JsonObject]:
        text = self._text
        assert text is not None
        text.text.append(delta)
        if self._shown.reasoning:
            yield self._sequence.emit(
                "reasoning_text.delta", text.index, content_index=0, delta=delta
            )

    def _visible(self, delta: str, tokens: Sequence[TextToken]) -> Iterator[JsonObject]:
        text = self._text
        assert text is not None
        logprobs = chat_logprobs(self._tokenizer, tokens) if self._shown.logprobs else []
        text.text.append(delta)
        text.logprobs += logprobs
        yield self._sequence.emit(
            "output_text.delta", text.index, content_index=0, delta=delta, logprobs=logprobs
        )

    def _close(self, whole: bool) -> Iterator[JsonObject]:
        if self._writing is not None:
            call, self._writing = self._writing, None
            yield from call.written(whole=whole)
            if not call.is_open:
                self._calls.pop(call.call_id, None)
            return
        text, self._text = self._text, None
        assert text is not None
        status = "completed" if whole else "incomplete"
        if text.kind == "reasoning":
            yield from self._close_reasoning(text, status)
        else:
            yield from self._close_message(text, status)

    def _close_reasoning(self, text: _Text, status: str) -> Iterator[JsonObject]:
        emit, index, whole = self._sequence.emit, text.index, "".join(text.text)
        if self._shown.reasoning:
            yield emit("reasoning_text.done", index, content_index=0, text=whole)
            part = {"type": "reasoning_text", "text": whole}
            yield emit("content_part.done", index, content_index=0, part=part)
        if self._shown.summary:
            part = {"type": "summary_text", "text": ""}
            yield emit("reasoning_summary_part.added", index, summary_index=0, part=part)
            yield emit("reasoning_summary_text.delta", index, summary_index=0, delta=whole)
            yield emit("reasoning_summary_text.done", index, summary_index=0, text=whole)
            part = {"type": "summary_text", "text": whole}
            yield emit("reasoning_summary_part.done", index, summary_index=0, part=part)
        yield self._done(index, self._reasoning_item(text, status))

    def _close_message(self, text: _Text, status: str) -> Iterator[JsonObject]:
        emit, index, whole = self._sequence.emit, text.index, "".join(text.text)
        yield emit("output_text.done", index, content_index=0, text=whole, logprobs=text.logprobs)
        notes = self._annotations(whole)
        for number, note in enumerate(notes):
            yield emit(
                "output_text.annotation.added",
                index,
                content_index=0,
                annotation_index=number,
                annotation=note,
            )
        item = self._message_item(text, status, notes)
        [part] = item["content"]
        yield emit("content_part.done", index, content_index=0, part=part)
        yield self._done(index, item)

    def _reasoning_item(self, text: _Text, status: str) -> JsonObject:
        item: JsonObject = {"id": text.id, "type": "reasoning", "summary": [], "status": status}
        if status == "in_progress":
            return item
        whole = "".join(text.text)
        if self._shown.summary:
            item["summary"] = [{"type": "summary_text", "text": whole}]
        if self._shown.reasoning:
            item["content"] = [{"type": "reasoning_text", "text": whole}]
        if self._shown.encrypted:
            item["encrypted_content"] = self._seal.seal_text(whole)
        return item

    def _message_item(self, text: _Text, status: str, notes: list[JsonObject]) -> JsonObject:
        content = []
        if status != "in_progress":
            part: JsonObject = {
                "type": "output_text",
                "text": "".join(text.text),
                "annotations": notes,
            }
            if self._shown.logprobs:
                part["logprobs"] = text.logprobs
            content.append(part)
        return {
            "id": text.id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "phase": "final_answer" if text.kind == "answer" else "commentary",
            "content": content,
        }

    def _annotations(self, text: str) -> list[JsonObject]:
        """Pages of the browser that the text cites."""
        if not self._pages:
            return []
        return [
            {
                "type": "url_citation",
                "start_index": found.start,
                "end_index": found.end,
                "url": found.url,
                "title": found.title,
            }
            for found in citations(text, self._pages)
        ]

    def _open(self, call_id: str, name: str, approval: str | None = None) -> OpenCall:
        offer = self._toolset.offers[name]
        call = open_call(
            offer,
            call_id,
            len(self.output),
            self._sequence,
            self.output,
            container=self._session,
            approval=approval,
            code_outputs=self._shown.code_outputs,
            sources=self._shown.sources,
        )
        self._calls[call_id] = call
        return call

    def _call_done(self, call_id: str, output: ToolOutput) -> Iterator[JsonObject]:
        call = self._calls.pop(call_id)
        self._pages.update(output.details.get("pages") or {})
        yield from call.done(output)
