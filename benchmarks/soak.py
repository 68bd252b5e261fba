"""Load with random aborts, and the proof that nothing is left behind.

    python benchmarks/soak.py --url http://127.0.0.1:8000 --streams 32 --seconds 60

Keeps so many requests open on a running server, of all kinds, and breaks about half of them off at
a random moment. Afterwards every gauge of /metrics must be back to zero within five seconds and no
request may have failed; the exit code is 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx

IDLE_GAUGES = (
    "ossia_open_sequences",
    "ossia_sequences_running",
    "ossia_sequences_waiting",
    'ossia_kv_pages_used{pool="full"}',
    'ossia_kv_pages_used{pool="window"}',
)
SETTLE_SECONDS = 5.0
WORDS = ("tempo", "forte", "piano", "viola", "cello", "oboe", "horn", "fugue", "canon", "rondo")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the soak; 0 if nothing was left behind and nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--streams", type=int, default=32, help="requests open at once")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--max-tokens", type=int, default=256, help="of one request, at most")
    parser.add_argument("--seed", type=int, default=0)
    return asyncio.run(soak(parser.parse_args(argv)))


async def soak(args: argparse.Namespace) -> int:
    """Load the server, let it settle, compare its gauges with zero."""
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    deadline = time.monotonic() + args.seconds
    limits = httpx.Limits(max_connections=None)
    headers = {"authorization": f"Bearer {args.api_key}"}
    async with httpx.AsyncClient(
        base_url=args.url, headers=headers, limits=limits, timeout=None, trust_env=False
    ) as client:

        async def worker(number: int) -> None:
            rng = random.Random(args.seed * 1000 + number)
            while time.monotonic() < deadline:
                outcomes[await one_request(client, rng, args.max_tokens, failures)] += 1

        await asyncio.gather(*(worker(number) for number in range(args.streams)))
        ended = time.monotonic()
        left = await gauges(client)
        while any(left.values()) and time.monotonic() < ended + SETTLE_SECONDS:
            await asyncio.sleep(0.05)
            left = await gauges(client)
        settled = time.monotonic() - ended
    print(f"{args.streams} streams for {args.seconds:g} s: {dict(sorted(outcomes.items()))}")
    for failure in failures[:10]:
        print(f"failed: {failure}")
    for name, value in left.items():
        print(f"{name} {value:g}")
    if any(left.values()):
        print(f"Not idle after {SETTLE_SECONDS:g} s: something was left behind.")
    else:
        print(f"Idle {settled:.2f} s after the last request: everything was returned.")
    return 1 if failures or any(left.values()) else 0


async def one_request(
    client: httpx.AsyncClient, rng: random.Random, max_tokens: int, failures: list[str]
) -> str:
    """Send one random request and maybe break it off; how it ended."""
    path, body = random_request(rng, max_tokens)
    patience = rng.uniform(0.0, 1.5) if rng.random() < 0.5 else None  # seconds
    try:
        async with asyncio.timeout(patience):
            return await read_answer(client, path, body, failures)
    except TimeoutError:
        return "broken off"
    except httpx.HTTPError as error:
        failures.append(f"{path}: {type(error).__name__}: {error}")
        return "failed"


async def read_answer(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], failures: list[str]
) -> str:
    """Read the answer to its end."""
    last = ""
    async with client.stream("POST", path, json=body) as response:
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            return "too many"
        if response.is_error:
            await response.aread()
            failures.append(f"{path}: {response.status_code} {response.text}")
            return "failed"
        async for line in response.aiter_lines():
            last = line or last
    # A whole answer has choices; a stream ends in [DONE], or else in an error.
    complete = last == "data: [DONE]" if body["stream"] else bool(json.loads(last)["choices"])
    if not complete:
        failures.append(f"{path}: ended with {last[:200]}")
    return "finished" if complete else "failed"


def random_request(rng: random.Random, max_tokens: int) -> tuple[str, dict[str, Any]]:
    """A path and a body: chat or raw, streamed or whole, one choice or several."""
    text = " ".join(rng.choices(WORDS, k=rng.randrange(1, 200)))
    body: dict[str, Any] = {
        "max_tokens": rng.randrange(1, max_tokens + 1),
        "stream": rng.random() < 0.7,
        "n": rng.choice((1, 1, 1, 2)),
        "ignore_eos": rng.random() < 0.7,
    }
    if rng.random() < 0.2:
        body["stop"] = ["e", "fin"]
    if rng.random() < 0.2:
        body["seed"] = rng.randrange(1000)
    if rng.random() < 0.3:
        return "/v1/completions", {**body, "prompt": text}
    return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": text}]}


async def gauges(client: httpx.AsyncClient) -> dict[str, float]:
    """The gauges that are zero on an idle server."""
    response = await client.get("/metrics")
    response.raise_for_status()
    lines = (line.rpartition(" ") for line in response.text.splitlines() if line[:1] != "#")
    values = {name: float(value) for name, _, value in lines}
    return {name: values[name] for name in IDLE_GAUGES}


if __name__ == "__main__":
    sys.exit(main())
