"""A stream hands on chunks in order, joins what its consumer missed, and tells when it is left."""

import asyncio
import gc

import pytest

from ossia.engine.messages import Chunk, TokenLogprobs
from ossia.engine.stream import TokenStream
from ossia.errors import EngineUnavailable


def run(main):
    """Run `main(stream, abandoned)` in a loop; `abandoned` lists the ids that were given up."""

    async def wrapped():
        abandoned: list[str] = []
        await main(TokenStream("r", abandoned.append), abandoned)

    asyncio.run(wrapped())


def test_chunks_that_waited_are_joined():
    async def main(stream, abandoned):
        logprobs = [TokenLogprobs(-0.5, [(1, -0.5)])]
        stream.put(Chunk("r", [1], logprobs, cached_tokens=16))
        stream.put(Chunk("r", [2], logprobs, cached_tokens=16, cut="loop"))
        stream.put(Chunk("r", [3], logprobs, "stop", 16))
        assert await anext(stream) == Chunk("r", [1, 2, 3], logprobs * 3, "stop", 16, cut="loop")
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert abandoned == []

    run(main)


def test_chunks_come_as_soon_as_they_are_put():
    async def main(stream, abandoned):
        asyncio.get_running_loop().call_later(0.01, stream.put, Chunk("r", [1]))
        assert (await anext(stream)).token_ids == [1]
        asyncio.get_running_loop().call_later(0.01, stream.put, Chunk("r", [], None, "error"))
        assert (await anext(stream)).finish_reason == "error"

    run(main)


def test_a_failure_comes_after_the_tokens_before_it():
    async def main(stream, abandoned):
        stream.put(Chunk("r", [1]))
        stream.fail(EngineUnavailable("gone"))
        stream.put(Chunk("r", [2]))
        assert (await anext(stream)).token_ids == [1]
        for _ in range(2):
            with pytest.raises(EngineUnavailable, match="gone"):
                await anext(stream)
        await stream.aclose()
        assert abandoned == []

    run(main)


def test_closing_drops_what_is_pending_and_tells_once():
    async def main(stream, abandoned):
        stream.put(Chunk("r", [1]))
        await stream.aclose()
        await stream.aclose()
        stream.put(Chunk("r", [2]))
        assert [chunk async for chunk in stream] == []
        assert abandoned == ["r"]

    run(main)


def test_closing_wakes_a_waiting_consumer():
    async def main(stream, abandoned):
        waiting = asyncio.create_task(collect(stream))
        await asyncio.sleep(0)
        await stream.aclose()
        assert await asyncio.wait_for(waiting, 1.0) == []

    run(main)


async def collect(stream):
    return [chunk async for chunk in stream]


def test_a_cancelled_consumer_abandons_the_sequence():
    async def main(stream, abandoned):
        waiting = asyncio.create_task(collect(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert abandoned == ["r"]

    run(main)


def test_a_dropped_stream_abandons_the_sequence_and_an_ended_one_does_not():
    async def main(stream, abandoned):
        dropped = TokenStream("dropped", abandoned.append)
        ended = TokenStream("ended", abandoned.append)
        ended.put(Chunk("ended", [1], None, "stop"))
        del dropped, ended
        gc.collect()
        await asyncio.sleep(0)
        assert abandoned == ["dropped"]

    run(main)
