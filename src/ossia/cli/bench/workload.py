"""What the load generator asks: random token prompts of fixed length, or the demo's questions."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

_TEXT_TOKENS = 199998  # ids below this are text, the special ones lie above
_STREAM = {"stream": True, "stream_options": {"include_usage": True}}

DEMO_QUESTIONS = (
    "Who are you?",
    "What can you do?",
    "What is 23 + 45?",
    "What is 17 + 64?",
    "What is 9 times 7?",
    "Hello!",
    "What is 88 - 31?",
    "Thank you!",
)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One streamed request."""

    path: str
    body: dict[str, Any]


def random_requests(
    count: int,
    *,
    model: str,
    input_length: tuple[int, int],
    output_length: tuple[int, int],
    seed: int,
) -> list[HttpRequest]:
    """Completions of random tokens that generate exactly the length asked for.

    Lengths in tokens, uniform between both ends. Equal arguments give equal requests.
    """
    rng = random.Random(seed)
    return [
        HttpRequest(
            "/v1/completions",
            {
                "model": model,
                "prompt": random_tokens(rng, rng.randint(*input_length)),
                "max_tokens": rng.randint(*output_length),
                "ignore_eos": True,
                "seed": seed + number,
                **_STREAM,
            },
        )
        for number in range(count)
    ]


def demo_requests(
    count: int, *, model: str, output_length: tuple[int, int], seed: int
) -> list[HttpRequest]:
    """Chats that the demo model can answer; they end when the model ends them."""
    return [
        HttpRequest(
            "/v1/chat/completions",
            {
                "model": model,
                "messages": [
                    {"role": "user", "content": DEMO_QUESTIONS[number % len(DEMO_QUESTIONS)]}
                ],
                "max_completion_tokens": output_length[1],
                "seed": seed + number,
                **_STREAM,
            },
        )
        for number in range(count)
    ]


def random_tokens(rng: random.Random, length: int) -> list[int]:
    """`length` ids of text tokens."""
    return [rng.randrange(_TEXT_TOKENS) for _ in range(length)]
