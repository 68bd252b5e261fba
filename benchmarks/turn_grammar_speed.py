"""What the turn grammar costs: tokens a second with it and without, in turns, in one run.

    python -m benchmarks.turn_grammar_speed
    python -m benchmarks.turn_grammar_speed --http --streams 1,8

Both sides do the same work. In one process every answer has the same length: stop tokens are held
back until then, and the schema asks for a list that is longer. With --http there are two servers,
one with the grammar turned off, and answers at temperature 0 with their own end, which are the same
on both: a model that must go on after its end writes what clients are not shown, and that is cheap.
Only the schema is as above, compared with a chat that has it in its instructions, because a server
without grammar refuses to enforce it. Rounds with and without the grammar alternate, and the ratio
is the median over pairs of rounds, so a machine that is busy for a while disturbs it little.
With --cpu the seconds are those of the processors, of all threads together: on a machine that does
other things as well they say more than the clock, and what threads do on the side counts in full.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil

from ossia.answer.constraint import turn_constraint
from ossia.cli.bench.inprocess import run_requests
from ossia.cli.bench.load import run_load
from ossia.cli.bench.workload import DEMO_QUESTIONS, HttpRequest
from ossia.config import EngineConfig
from ossia.engine.messages import Generate
from ossia.engine.start import start_engine
from ossia.harmony.grammar import GrammarCompiler
from ossia.harmony.prompt import render_prompt
from ossia.harmony.tokenizer import Tokenizer
from ossia.sampling import SamplingParams
from ossia.turn import OutputFormat, ToolDefinition, Turn, UserMessage

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "people": {
            "type": "array",
            "minItems": 200,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "age": {"type": "integer", "minimum": 0, "maximum": 150},
                    "kind": {"enum": ["friend", "colleague", "stranger"]},
                },
                "required": ["name", "age", "kind"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["people"],
    "additionalProperties": False,
}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CASES = ("plain", "tools", "schema")

# (case, streams, with the grammar) -> tokens a second
Measure = Callable[[str, int, bool], float]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--streams", default="1,8,32", help="at the same time (default: 1,8,32)")
    parser.add_argument("--tokens", type=int, default=128, help="of each answer (default: 128)")
    parser.add_argument("--rounds", type=int, default=9, help="pairs of a case (default: 9)")
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--http", action="store_true", help="through two servers")
    parser.add_argument("--cpu", action="store_true", help="count processor time, not the clock's")
    args = parser.parse_args()
    side = over_http if args.http else in_process
    with side(args.model, args.tokens, cpu=args.cpu) as measure:
        print("| case | streams | without, tokens/s | with, tokens/s | ratio |")
        print("|---|---:|---:|---:|---:|")
        for case in args.cases.split(","):
            for streams in map(int, args.streams.split(",")):
                measure(case, streams, True)
                pairs = [
                    (measure(case, streams, False), measure(case, streams, True))
                    for _ in range(args.rounds)
                ]
                off, on = (statistics.median(side) for side in zip(*pairs, strict=True))
                ratio = statistics.median(on / off for off, on in pairs)
                print(f"| {case} | {streams} | {off:.0f} | {on:.0f} | {ratio:.3f} |", flush=True)


@contextlib.contextmanager
def in_process(model: str, tokens: int, *, cpu: bool) -> Iterator[Measure]:
    """The engine alone."""
    core = start_engine(EngineConfig(model=model))
    tokenizer = Tokenizer()
    compiler = GrammarCompiler(tokenizer)
    numbers = itertools.count()

    def measure(case: str, streams: int, grammar: bool) -> float:
        requests = []
        for number in range(streams):
            turn = _turn(case, number)
            constraint = turn_constraint(compiler, turn) if grammar else None
            params = SamplingParams(min_tokens=tokens, max_tokens=tokens, seed=number)
            prompt = render_prompt(turn, tokenizer)
            requests.append(Generate(str(next(numbers)), prompt, params, constraint))
        before = time.process_time()
        result = run_requests(core, requests, max_seconds=600)
        seconds = time.process_time() - before if cpu else result.seconds
        if result.generated_tokens != streams * tokens:
            raise SystemExit(f"{case}: an answer ended early; the comparison would not be fair.")
        return result.generated_tokens / seconds

    yield measure


def _turn(case: str, number: int) -> Turn:
    return Turn(
        (UserMessage(DEMO_QUESTIONS[number % len(DEMO_QUESTIONS)]),),
        tools=(ToolDefinition("get_weather", "Current weather.", CITY),) if case == "tools" else (),
        output=OutputFormat("json_schema", SCHEMA, "people") if case == "schema" else None,
    )


@contextlib.contextmanager
def over_http(model: str, tokens: int, *, cpu: bool) -> Iterator[Measure]:
    """Streamed chats through a server with the grammar and one without."""
    with contextlib.ExitStack() as stack:
        servers = {on: stack.enter_context(_server(model, on)) for on in (True, False)}
        expected: dict[tuple[str, int], int] = {}  # tokens of all answers

        async def measure(case: str, streams: int, grammar: bool) -> float:
            url, process = servers[grammar]
            requests = [_request(case, i, tokens, grammar) for i in range(max(8, 4 * streams))]
            before = _cpu_seconds(process)
            async with httpx.AsyncClient(base_url=url, timeout=600) as http:
                result = await run_load(
                    http, requests, concurrency=streams, max_seconds=600, on_done=lambda: None
                )
            spent = sum(r.completion_tokens for r in result.requests)
            if any(r.error for r in result.requests):
                raise SystemExit(f"{case}: an answer failed: {result.requests[0]}")
            if spent != expected.setdefault((case, streams), spent):
                raise SystemExit(f"{case}: the answers differ, so the times cannot be compared.")
            seconds = _cpu_seconds(process) - before if cpu else result.seconds
            return spent / seconds

        yield lambda case, streams, grammar: asyncio.run(measure(case, streams, grammar))


def _request(case: str, number: int, tokens: int, grammar: bool) -> HttpRequest:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": DEMO_QUESTIONS[number % len(DEMO_QUESTIONS)]}],
        "max_completion_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if case == "tools":
        body["tools"] = [
            {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}
        ]
    if case == "schema":
        body |= {"min_tokens": tokens, "temperature": 1, "seed": number}
    if case == "schema" and not grammar:
        body["messages"].insert(0, {"role": "developer", "content": json.dumps(SCHEMA)})
    if case == "schema" and grammar:
        form = {"name": "people", "schema": SCHEMA}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    return HttpRequest("/v1/chat/completions", body)


@contextlib.contextmanager
def _server(model: str, grammar: bool) -> Iterator[tuple[str, psutil.Process]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--turn-grammar", "on" if grammar else "off"]
    command = [sys.executable, "-m", "ossia.cli", "serve", model, *options]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while server.poll() is None:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/health").is_success:
                        break
                time.sleep(0.1)
            else:
                raise SystemExit("The server did not start; try `ossia serve` by hand.")
            yield url, psutil.Process(server.pid)
        finally:
            server.terminate()


def _cpu_seconds(server: psutil.Process) -> float:
    """Of the server and its engine so far, in steps of the kernel's clock."""
    times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
    return sum(float(time.user + time.system) for time in times)


if __name__ == "__main__":
    main()
