"""A conversation that is too long, without its oldest exchanges."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left

from ossia.harmony.prompt import render_prompt
from ossia.harmony.tokenizer import Tokenizer
from ossia.turn import Instructions, Turn, UserMessage


def without_oldest(turn: Turn, tokenizer: Tokenizer, max_tokens: int) -> Turn:
    """`turn` with as many of its oldest exchanges left out as its prompt has to lose.

    An exchange begins with a message of the user. Instructions and the last exchange stay, so that
    the prompt may still be longer than `max_tokens`.
    """
    starts = [i for i, item in enumerate(turn.items) if isinstance(item, UserMessage)]

    def cut(exchanges: int) -> Turn:
        if exchanges == 0:
            return turn
        first = starts[exchanges]
        kept = [item for item in turn.items[:first] if isinstance(item, Instructions)]
        return dataclasses.replace(turn, items=(*kept, *turn.items[first:]))

    def fits(exchanges: int) -> bool:
        return len(render_prompt(cut(exchanges), tokenizer)) <= max_tokens

    most = max(0, len(starts) - 1)
    return cut(bisect_left(range(most), True, key=fits))
