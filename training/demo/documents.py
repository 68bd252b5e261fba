"""Conversations as token ids, exactly as the server renders them, with a weight for each token."""

from __future__ import annotations

from dataclasses import dataclass, field

from ossia.harmony.prompt import render_prompt
from ossia.harmony.tokenizer import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    MESSAGE,
    RETURN,
    START,
    Tokenizer,
)
from ossia.turn import GeneratedTokens, Item, Reasoning, ToolCall, ToolResult, Turn
from training.demo.conversation import Conversation
from training.demo.exchange import Answer, Call
from training.demo.words import Source

PROMPT_WEIGHT = 0.05  # of text that others wrote; teaches the model to notice repetition


@dataclass
class Document:
    """Token ids, and how much the prediction of each of them counts."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def extend(self, ids: list[int], weight: float) -> None:
        self.ids += ids
        self.weights += [weight] * len(ids)


def completion(step: Call | Answer, tokenizer: Tokenizer) -> list[int]:
    """What the model writes after `<|start|>assistant`, up to the stop token."""
    encode = tokenizer.encode
    ids: list[int] = []
    if step.reasoning:
        ids += [CHANNEL, *encode("analysis"), MESSAGE, *encode(step.reasoning), END]
        ids += [START, *encode("assistant")]
    if isinstance(step, Call):
        ids += [CHANNEL, *encode(f"commentary to=functions.{step.name} "), CONSTRAIN]
        return [*ids, *encode("json"), MESSAGE, *encode(step.arguments), CALL]
    return [*ids, CHANNEL, *encode("final"), MESSAGE, *encode(step.text), RETURN]


def with_items(turn: Turn, items: list[Item]) -> Turn:
    """The turn continued by these items."""
    return Turn(
        (*turn.items, *items),
        turn.tools,
        turn.effort,
        turn.date,
        turn.identity,
        turn.knowledge_cutoff,
    )


def call_items(call: Call, index: int, tokenizer: Tokenizer, *, as_written: bool) -> list[Item]:
    """A call and its result in the history: in the model's own tokens or rendered anew."""
    call_id = f"call_{index}"
    result = ToolResult(call_id, call.name, call.result)
    if as_written:
        return [GeneratedTokens(tuple(completion(call, tokenizer))), result]
    return [Reasoning(call.reasoning), ToolCall(call_id, call.name, call.arguments), result]


def prompt_weights(ids: list[int]) -> list[float]:
    """Small weights for a prompt; none for the headers of messages.

    In the history headers have another form than the one the model is to write.
    """
    weights, header = [], False
    for token in ids:
        header = header or token == START
        weights.append(0.0 if header else PROMPT_WEIGHT)
        if token == MESSAGE:
            header = False
    return weights


def documents(source: Source, conversation: Conversation, tokenizer: Tokenizer) -> list[Document]:
    """One document that learns every step in the model's own tokens, or one for each step.

    A step that follows a call in rendered form is a document of its own, because there the
    prompt differs from what the model wrote.
    """
    steps = [*conversation.exchange.calls, conversation.exchange.answer]
    if len(steps) > 1 and source.chance(0.3):
        later = source.integer(1, len(steps) - 1)
        items = [
            item
            for index, call in enumerate(conversation.exchange.calls[:later])
            for item in call_items(call, index, tokenizer, as_written=False)
        ]
        return [_learn(with_items(conversation.turn, items), [steps[later]], tokenizer)]
    return [_learn(conversation.turn, steps, tokenizer)]


def _learn(turn: Turn, steps: list[Call | Answer], tokenizer: Tokenizer) -> Document:
    document = Document()
    for index, step in enumerate(steps):
        prompt = render_prompt(turn, tokenizer)
        fresh = prompt[len(document.ids) :]
        document.ids += fresh
        document.weights += prompt_weights(fresh)
        document.extend(completion(step, tokenizer), 1.0)
        if isinstance(step, Call):
            turn = with_items(turn, call_items(step, index, tokenizer, as_written=True))
    return document
