"""The client and the engine process: streams, aborts, deaths on either side, no trace left."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ossia.engine.client import EngineClient, RestartPolicy
from ossia.engine.messages import Constraint, PhaseLimit
from ossia.errors import (
    ContextLengthExceeded,
    EngineUnavailable,
    InternalError,
    InvalidRequest,
    StartupError,
)

LONG = {"max_tokens": 1500}


@asynccontextmanager
async def started(config, **options):
    client = await EngineClient.start(config, **{"prepare_grammars": False, **options})
    try:
        yield client
    finally:
        await client.close()


async def eventually(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.01)


async def collect(stream) -> list[int]:
    return [token async for chunk in stream for token in chunk.token_ids]


def is_idle(client) -> bool:
    s = client.stats
    return s.running == s.waiting == s.full_pages_used == s.window_pages_used == 0


def test_streams_carry_the_tokens_of_the_engine(tiny_config, make_runs, sampling):
    runs = make_runs()
    jobs = {f"r{i}": ([i, i + 1], sampling(seed=i, logprobs=1)) for i in range(6)}
    for name, (prompt, params) in jobs.items():
        runs.add(name, prompt, params)
    runs.finish()
    lines: list[str] = []

    async def main():
        async with started(tiny_config(), on_progress=lines.append) as client:
            streams = [client.generate(name, *job) for name, job in jobs.items()]
            got = await asyncio.gather(*map(collect, streams))
            assert got == [runs.tokens(name) for name in jobs]
            assert client.num_running == 0
            assert client.stats.generated_tokens == 72
            assert client.info.architecture == "GptOssForCausalLM"
            assert "ossia-engine" in psutil.Process(client.pid).cmdline()[0]

    asyncio.run(main())
    assert any("Memory" in line for line in lines)


def test_every_way_to_leave_a_stream_aborts_the_sequence(tiny_config, sampling):
    async def consume(client, name):
        async for _ in client.generate(name, [1], sampling(**LONG)):
            pass

    async def main():
        async with started(tiny_config()) as client:
            closed = client.generate("closed", [1], sampling(**LONG))
            await anext(closed)
            await closed.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(closed)
            await eventually(lambda: is_idle(client))

            task = asyncio.create_task(consume(client, "cancelled"))
            await eventually(lambda: client.stats.running == 1)
            task.cancel()
            await eventually(lambda: is_idle(client))

            async for _ in client.generate("dropped", [1], sampling(**LONG)):
                break
            await eventually(lambda: is_idle(client))

            aborted = client.generate("aborted", [1], sampling(**LONG))
            await anext(aborted)
            await client.abort(["aborted", "unknown"])
            assert len(await collect(aborted)) < 1500
            await eventually(lambda: is_idle(client))

            never_read = client.generate("never read", [1], sampling(**LONG))
            await eventually(lambda: client.stats.running == 1)
            del never_read
            await eventually(lambda: is_idle(client))

    asyncio.run(main())


def test_requests_that_cannot_run_are_refused_at_once(tiny_config, sampling):
    async def main():
        async with started(tiny_config(max_model_len=64)) as client:
            with pytest.raises(InvalidRequest, match="empty"):
                client.generate("a", [], sampling())
            with pytest.raises(InvalidRequest, match="token id"):
                client.generate("a", [1024], sampling())
            with pytest.raises(InvalidRequest, match="top_p"):
                client.generate("a", [1], sampling(top_p=2.0))
            with pytest.raises(ContextLengthExceeded, match="64 tokens"):
                client.generate("a", [1] * 64, sampling())
            with pytest.raises(ContextLengthExceeded, match="max_tokens"):
                client.generate("a", [1] * 60, sampling(max_tokens=5))
            stream = client.generate("a", [1] * 60, sampling(max_tokens=4))
            with pytest.raises(InternalError, match="already in use"):
                client.generate("a", [1], sampling())
            assert len(await collect(stream)) == 4

    asyncio.run(main())


def test_a_constraint_reaches_the_engine_and_its_faults_come_back(wide_config, sampling):
    text = "<[0-199997]>"
    limit = PhaseLimit(opening=[5], closing=7, then=f"start: <[9]> {text}*", max_tokens=3)
    good = Constraint(grammar=f"start: <[5]> {text}* <[200002]>", limit=limit)
    bad = Constraint(grammar="start: missing_rule")
    params = sampling(ignore_eos=False, min_tokens=12)

    async def main():
        async with started(wide_config()) as client:
            streams = {
                name: client.generate(name, [1], params, constraint)
                for name, constraint in {"good": good, "bad": bad, "free": None}.items()
            }
            chunks = {name: [c async for c in stream] for name, stream in streams.items()}
            tokens = [t for chunk in chunks["good"] for t in chunk.token_ids]
            assert (tokens[0], tokens[4:6]) == (5, [7, 9])
            assert [c.cut for c in chunks["good"] if c.cut] == ["max_tokens"]
            assert "missing_rule" in chunks["bad"][-1].error
            assert sum(len(c.token_ids) for c in chunks["free"]) == 12
            stats = client.stats
            assert (stats.constrained, stats.cuts_by_limit, stats.compiling) == (2, 1, 0)
            assert stats.grammars_compiled == 3
            with pytest.raises(InvalidRequest, match="ignore_eos"):
                client.generate("no", [1], sampling(), good)
            os.kill(client.pid, signal.SIGKILL)
            await eventually(lambda: client.restarts == 1 and client.alive)
            again = client.generate("again", [1], params, good)
            assert (await collect(again))[4:6] == [7, 9]
            assert client.stats.constrained == 3, "counters only grow"

    asyncio.run(main())


def test_an_idle_engine_uses_no_cpu(tiny_config, sampling):
    async def main():
        async with started(tiny_config()) as client:
            await collect(client.generate("a", [1], sampling()))
            process = psutil.Process(client.pid)
            before = sum(process.cpu_times()[:2])
            await asyncio.sleep(1.0)
            assert sum(process.cpu_times()[:2]) - before <= 0.02

    asyncio.run(main())


def test_a_killed_engine_fails_its_requests_and_comes_back(tiny_config, sampling):
    states: list[str] = []

    async def main():
        async with started(tiny_config(), on_state=states.append) as client:
            await collect(client.generate("first", [1], sampling()))
            streams = [client.generate(f"r{i}", [i], sampling(**LONG)) for i in range(3)]
            for stream in streams:
                await anext(stream)
            generated = client.stats.generated_tokens
            dead = client.pid
            os.kill(dead, signal.SIGKILL)
            for stream in streams:
                with pytest.raises(EngineUnavailable, match="killed by SIGKILL"):
                    await collect(stream)
            assert not client.alive
            with pytest.raises(EngineUnavailable, match="started again"):
                client.generate("refused", [1], sampling())
            await eventually(lambda: client.alive)
            assert client.pid != dead
            assert is_idle(client)
            assert len(await collect(client.generate("again", [1], sampling()))) == 12
            assert client.stats.generated_tokens >= generated + 12, "counters only grow"
            assert client.restarts == 1
            os.kill(client.pid, signal.SIGINT)
            assert len(await collect(client.generate("sigint", [1], sampling()))) == 12

    asyncio.run(main())
    assert states == ["restarting", "ready", "closed"]


def test_an_engine_that_cannot_come_back_is_given_up(tiny_config, tmp_path, sampling):
    config = tiny_config()
    copy = tmp_path / "config.json"
    copy.write_bytes((Path(config.model) / "config.json").read_bytes())

    async def main():
        policy = RestartPolicy(max_in_a_row=1, first_backoff=0.01)
        async with started(replace(config, model=str(tmp_path)), policy=policy) as client:
            copy.unlink()
            os.kill(client.pid, signal.SIGTERM)
            await eventually(lambda: client.state == "failed", 20)
            with pytest.raises(EngineUnavailable, match="no longer started"):
                client.generate("a", [1], sampling())

    asyncio.run(main())


def test_a_start_that_fails_says_why_and_shows_no_traceback(tiny_config, capfd):
    async def main():
        with pytest.raises(StartupError, match="no such place"):
            await EngineClient.start(tiny_config(model="/no such place"))
        with pytest.raises(StartupError, match="--max-model-len"):
            await EngineClient.start(tiny_config(max_model_len=100000))

    asyncio.run(main())
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    assert not leftovers()


def leftovers() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("ossia-*/commands"))


def test_closing_is_quick_and_leaves_nothing(tiny_config, sampling):
    async def main():
        client = await EngineClient.start(tiny_config(), prepare_grammars=False)
        stream = client.generate("a", [1], sampling(**LONG))
        await anext(stream)
        pid = client.pid
        begun = time.monotonic()
        await client.close()
        assert time.monotonic() - begun < 2.0
        assert not psutil.pid_exists(pid), "not even a zombie"
        with pytest.raises(EngineUnavailable, match="shutting down"):
            await collect(stream)
        with pytest.raises(EngineUnavailable):
            client.generate("b", [1], sampling())
        await client.close()

    asyncio.run(main())
    assert not leftovers()


PARENT = """
import asyncio, json, sys
from ossia.config import EngineConfig
from ossia.engine.client import EngineClient

async def main():
    client = await EngineClient.start(EngineConfig(**json.loads(sys.argv[1])))
    print(client.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_the_engine_ends_when_its_parent_is_killed(tiny_model):
    options = {"model": tiny_model, "load_format": "dummy", "device": "cpu", "num_threads": 1}
    command = [sys.executable, "-c", PARENT, json.dumps(options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        engine = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    engine.wait(timeout=2.0)
    assert not leftovers()


def test_a_kept_standard_input_alone_ends_the_engine(tiny_model):
    """Where the kernel does not tell a child of its parent's death, the pipe does."""
    launch = {
        "config": {"model": tiny_model, "load_format": "dummy", "device": "cpu"},
        "commands": "inproc://none",
        "results": "inproc://none",
        "parent_pid": os.getpid(),
    }
    command = [sys.executable, "-m", "ossia.engine.process"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as engine:
        assert engine.stdin is not None
        launch["commands"] = launch["results"] = "ipc:///nonexistent-folder/socket"
        engine.stdin.write(json.dumps(launch).encode() + b"\n")
        engine.stdin.flush()
        time.sleep(0.5)
        assert engine.poll() is None
        engine.stdin.close()
        assert engine.wait(timeout=5) == 0


def modules_after(code: str) -> set[str]:
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_the_api_process_does_not_import_torch():
    assert not modules_after("import ossia.engine.client") & {"torch", "numpy", "transformers"}


def test_the_engine_process_imports_no_more_than_it_needs():
    found = modules_after("import ossia.engine.process, ossia.engine.start")
    assert "torch" in found
    assert not found & {"transformers", "openai", "fastapi", "openai_harmony", "uvicorn", "rich"}


def test_streams_that_come_and_go_leave_every_page_free(tiny_config, sampling):
    async def one(client, name, source):
        prompt = [source.randrange(1024) for _ in range(source.randrange(1, 200))]
        stream = client.generate(name, prompt, sampling(max_tokens=source.randrange(1, 200)))
        leave_after = source.randrange(1, 120)
        got = 0
        async for chunk in stream:
            got += len(chunk.token_ids)
            if got >= leave_after and source.random() < 0.7:
                await stream.aclose()

    async def worker(client, number, until):
        source = random.Random(number)
        done = 0
        while time.monotonic() < until:
            await one(client, f"{number}-{done}", source)
            done += 1
        return done

    async def main():
        async with started(tiny_config(max_num_seqs=12, kv_cache_memory=5 << 20)) as client:
            until = time.monotonic() + 3.0
            done = await asyncio.gather(*(worker(client, i, until) for i in range(32)))
            assert sum(done) > 32
            await eventually(lambda: is_idle(client))
            assert client.num_running == 0

    asyncio.run(main())
