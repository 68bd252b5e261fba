"""Tokens that the model wrote, put back into a prompt as they were.

Reusing them keeps the prefix cache warm and the model's own spelling of headers. These things
change: `<|return|>` becomes `<|end|>`, a message that was cut off gets its end, analysis messages
are cut out where the turn is over, and a message that is off the format is written again the way
it was understood.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ossia.harmony.messages import render_message
from ossia.harmony.parser import HarmonyParser, MessageStart, TextDelta
from ossia.harmony.tokenizer import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    ENDOFTEXT,
    FIRST_SPECIAL,
    MESSAGE,
    RETURN,
    START,
    Tokenizer,
)

_ENDS = (END, RETURN, CALL, ENDOFTEXT)


def replay(token_ids: Sequence[int], tokenizer: Tokenizer, *, keep_reasoning: bool) -> list[int]:
    """Whole messages for a prompt, from the tokens generated after `<|start|>assistant`."""
    ids: list[int] = []
    assistant = tokenizer.encode("assistant")
    parts = _split(token_ids)
    for number, part in enumerate(parts):
        well_formed = _is_message(part, tokenizer, after_role=number == 0)
        for start, text in _read(parts, number, tokenizer):
            calls = start.recipient is not None
            if start.channel == "analysis" and not calls and not keep_reasoning:
                continue
            if not well_formed:
                ids += _write(start, text, tokenizer)
                continue
            whole = part[-1] in _ENDS
            ids += [START, *(assistant if number == 0 else ())]
            ids += part[:-1] if whole else part
            ids.append(CALL if part[-1] == CALL or (calls and not whole) else END)
    return ids


def ends_in_final(token_ids: Sequence[int], tokenizer: Tokenizer) -> bool:
    """Whether the tokens answer on the `final` channel, which ends the turn."""
    parts = _split(token_ids)
    for number in reversed(range(len(parts))):
        messages = _read(parts, number, tokenizer)
        if messages:
            start, _ = messages[-1]
            return start.channel == "final" and start.recipient is None
    return False


def _split(token_ids: Sequence[int]) -> list[Sequence[int]]:
    """The tokens between `<|start|>` tokens."""
    cuts = [-1, *(i for i, token in enumerate(token_ids) if token == START), len(token_ids)]
    return [token_ids[a + 1 : b] for a, b in pairwise(cuts)]


def _is_message(part: Sequence[int], tokenizer: Tokenizer, *, after_role: bool) -> bool:
    """Whether the markers are where the format has them: the header's, `<|message|>`, an end.

    A part that stands behind the prompt's `assistant` must not lengthen that word, and any other
    begins with a role."""
    if MESSAGE not in part:
        return False
    bare = part[0] < FIRST_SPECIAL and not tokenizer.token_bytes(part[0]).startswith(b" ")
    if bare == after_role:
        return False
    cut = part.index(MESSAGE)
    text = part[cut + 1 : -1] if part[-1] in _ENDS else part[cut + 1 :]
    header_fits = all(0 <= t < FIRST_SPECIAL or t in (CHANNEL, CONSTRAIN) for t in part[:cut])
    return header_fits and all(0 <= t < FIRST_SPECIAL for t in text)


def _read(
    parts: Sequence[Sequence[int]], number: int, tokenizer: Tokenizer
) -> list[tuple[MessageStart, str]]:
    """Messages in one of the parts and their texts; one message if it is well-formed."""
    parser = HarmonyParser(tokenizer)
    before = [START] if number > 0 else []
    after = [START] if number < len(parts) - 1 else []
    messages: list[tuple[MessageStart, str]] = []
    for event in parser.feed([*before, *parts[number], *after]) + parser.finish():
        if isinstance(event, MessageStart):
            messages.append((event, ""))
        elif isinstance(event, TextDelta):
            start, text = messages[-1]
            messages[-1] = (start, text + event.text)
    return messages


def _write(start: MessageStart, text: str, tokenizer: Tokenizer) -> list[int]:
    role, channel = start.role, str(start.channel)
    if start.recipient is not None:
        role += f" to={start.recipient}"
    if start.content_type is not None:
        channel += f" {start.content_type}"
    calls = start.recipient is not None and start.role == "assistant"
    return render_message(tokenizer, role, text, channel, CALL if calls else END)
