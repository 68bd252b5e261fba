"""One message as token ids: `<|start|>{role}<|channel|>{channel}<|message|>{text}<|end|>`."""

from __future__ import annotations

from ossia.harmony.tokenizer import CHANNEL, END, MESSAGE, START, Tokenizer


def render_message(
    tokenizer: Tokenizer, role: str, text: str, channel: str | None = None, end: int = END
) -> list[int]:
    """Ids of a whole message. `role` may have a recipient after it (`assistant to=functions.f`),
    `channel` a content type (`commentary json`)."""
    ids = [START, *tokenizer.encode(role)]
    if channel is not None:
        ids += [CHANNEL, *tokenizer.encode(channel)]
    return [*ids, MESSAGE, *tokenizer.encode(text), end]
