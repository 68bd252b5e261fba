"""What the Responses API costs beside Chat Completions: the same question, streamed, over HTTP.

    ossia serve demo --response-store sqlite:////tmp/bench.db &
    python -m benchmarks.responses_speed --url http://127.0.0.1:8000 --streams 1,8,32

Each round asks the same questions of all APIs, one API after the other, at temperature 0 and with
the same limit of tokens, so that the model writes the same. Ratios are taken within a round; the
median of the rounds is printed. `stored` keeps every response, `kept by nobody` has store: false.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

QUESTION = "Count from one to fifty, in words."
Ask = Callable[[httpx.AsyncClient, int, int], Awaitable[int]]


async def chat(client: httpx.AsyncClient, number: int, tokens: int) -> int:
    """Tokens of one streamed chat completion."""
    body = {
        "messages": [{"role": "user", "content": f"{number}. {QUESTION}"}],
        "max_completion_tokens": tokens,
        "stream_options": {"include_usage": True},
    }
    return await streamed(client, "/v1/chat/completions", body, '"completion_tokens":')


def responses(store: bool) -> Ask:
    """The same of a response."""

    async def ask(client: httpx.AsyncClient, number: int, tokens: int) -> int:
        body = {
            "input": f"{number}. {QUESTION}",
            "max_output_tokens": tokens,
            "store": store,
            "tools": [],
        }
        return await streamed(client, "/v1/responses", body, '"output_tokens":')

    return ask


async def streamed(client: httpx.AsyncClient, path: str, body: dict[str, Any], count: str) -> int:
    last = ""
    async with client.stream("POST", path, json={**body, "stream": True, "temperature": 0}) as got:
        got.raise_for_status()
        async for line in got.aiter_lines():
            if count in line:
                last = line
    return int(last.split(count)[1].split(",")[0])


async def speed(client: httpx.AsyncClient, ask: Ask, streams: int, tokens: int) -> float:
    """Tokens per second of so many streams at once."""
    started = time.perf_counter()
    written = await asyncio.gather(*(ask(client, number, tokens) for number in range(streams)))
    return sum(written) / (time.perf_counter() - started)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    apis = {"chat": chat, "stored": responses(True), "kept by nobody": responses(False)}
    print("| streams | chat, tokens/s | stored | kept by nobody |\n|---|---|---|---|")
    async with httpx.AsyncClient(base_url=options.url, timeout=600) as client:
        for streams in map(int, options.streams.split(",")):
            await speed(client, chat, streams, options.tokens)  # prompts into the cache
            rounds = []
            for _ in range(options.rounds):
                rounds.append(
                    [await speed(client, ask, streams, options.tokens) for ask in apis.values()]
                )
            base = statistics.median(row[0] for row in rounds)
            ratios = [statistics.median(row[i] / row[0] for row in rounds) for i in (1, 2)]
            print(f"| {streams} | {base:.0f} | {ratios[0]:.3f} | {ratios[1]:.3f} |", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
