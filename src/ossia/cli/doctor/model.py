"""What would run here: the vocabulary, devices and kernels, and the demo model itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ossia.cli.doctor.check import Check
from ossia.config import EngineConfig
from ossia.errors import ConfigError, OssiaError
from ossia.sampling import SamplingParams
from ossia.turn import ReasoningEffort, Turn, UserMessage

if TYPE_CHECKING:
    import torch

_DEMO = "demo"
_BACKENDS = ("TRITON", "FLASH_ATTN_3", "TORCH")
_SAMPLE = "A naïve façade, 你好, 🙂 <|end|>"
_QUESTION = "What is 2 + 3?"
_MAX_ANSWER = 200  # tokens


def vocabulary() -> Iterator[Check]:
    """The embedded vocabulary has the ids that the model was trained on."""
    from ossia.harmony import tokenizer as module

    tokenizer = module.Tokenizer()
    special = {
        "<|return|>": module.RETURN,
        "<|constrain|>": module.CONSTRAIN,
        "<|channel|>": module.CHANNEL,
        "<|start|>": module.START,
        "<|end|>": module.END,
        "<|message|>": module.MESSAGE,
        "<|call|>": module.CALL,
        "<|endoftext|>": module.ENDOFTEXT,
    }
    wrong = [text for text, token in special.items() if tokenizer.decode([token]) != text]
    ids = tokenizer.encode(_SAMPLE)
    if wrong:
        yield Check("vocabulary", "fail", f"{wrong[0]} has another id; reinstall oss-harmony")
    elif tokenizer.decode(ids) != _SAMPLE or any(map(tokenizer.is_special, ids)):
        yield Check("vocabulary", "fail", "text does not survive encoding; reinstall oss-harmony")
    else:
        yield Check("vocabulary", "ok", f"o200k_harmony, {tokenizer.vocab_size} ids, no download")


def device() -> Iterator[Check]:
    """The device and the number formats that "auto" chooses, and why not the GPU."""
    from ossia.checkpoint.dummy import GEOMETRIES
    from ossia.engine.device import choose_device, choose_dtype

    config = EngineConfig(model=_DEMO)
    chosen = choose_device(config)
    detail = f"auto is {chosen.type}"
    try:
        choose_device(replace(config, device="cuda"))
    except ConfigError as error:
        detail += f"; not cuda: {error.message}"
    yield Check("device", "ok", detail)
    formats = ", ".join(
        f"{_name(choose_dtype(config, geometry, chosen))} for {name}"
        for name, geometry in GEOMETRIES.items()
    )
    yield Check("dtype", "ok", f"auto is {formats}; experts stay in MXFP4")


def kernels() -> Iterator[Check]:
    """Which attention "auto" chooses for gpt-oss-20b, why not the others, and the self-test.

    On a CPU that is the native library's where it is there; see `native.py`.
    """
    import torch

    from ossia.checkpoint.dummy import GEOMETRIES
    from ossia.engine.device import choose_device
    from ossia.kernels.select import select_kernels
    from ossia.kernels.self_test import self_test

    place = choose_device(EngineConfig(model=_DEMO))
    geometry = GEOMETRIES["gpt-oss-20b"]
    chosen = select_kernels(place, torch.bfloat16, model=geometry).attention_backend
    for backend in _BACKENDS:
        try:
            select_kernels(place, torch.bfloat16, backend, geometry)
        except ConfigError as error:
            detail = f"not here: {error.message}"
        else:
            detail = "chosen by auto" if backend == chosen else "works here"
        yield Check(backend, "ok", detail)
    yield from _reasons(place)
    for dtype in (torch.float32, torch.bfloat16):
        name = f"{_name(dtype)} kernels"
        try:
            self_test(select_kernels(place, dtype), place, dtype)
        except OssiaError as error:
            yield Check(name, "fail", error.message)
        else:
            yield Check(name, "ok", f"self-test against the references passed on {place.type}")


def _reasons(place: torch.device) -> Iterator[Check]:
    """Which kernels each known model would get on a GPU, and why."""
    from ossia.checkpoint.dummy import GEOMETRIES
    from ossia.engine.device import choose_dtype
    from ossia.engine.start import choose_kernels

    if place.type == "cpu":
        return
    for name, geometry in GEOMETRIES.items():
        config = EngineConfig(model=name)
        chosen = choose_kernels(config, geometry, place, choose_dtype(config, geometry, place))
        for reason in chosen.reasons:
            yield Check(name, "ok", reason)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def demo() -> Iterator[Check]:
    """The demo model, in an engine process as `ossia serve` starts it, answers a question."""
    yield from asyncio.run(_ask_demo())


async def _ask_demo() -> list[Check]:
    from ossia.answer.assembler import TurnAssembler, VisibleText
    from ossia.engine.client import EngineClient
    from ossia.harmony.prompt import render_prompt
    from ossia.harmony.tokenizer import Tokenizer

    started = time.monotonic()
    client = await EngineClient.start(EngineConfig(model=_DEMO))
    try:
        ready = time.monotonic() - started
        info = client.info
        engine = Check(
            "engine",
            "ok",
            f"demo model ready in {ready:.1f} s on {info.device}, {info.dtype}, "
            f"attention {info.attention_backend}",
        )
        tokenizer = Tokenizer()
        turn = Turn(items=(UserMessage(_QUESTION),), effort=ReasoningEffort.LOW)
        assembler = TurnAssembler(tokenizer, ())
        params = SamplingParams(temperature=0.0, max_tokens=_MAX_ANSWER)
        answer = ""
        async for chunk in client.generate("doctor", render_prompt(turn, tokenizer), params):
            deltas = assembler.feed(chunk)
            answer += "".join(delta.text for delta in deltas if isinstance(delta, VisibleText))
    finally:
        await client.close()
    shown = " ".join(answer.split())[:80]
    if not shown:
        return [engine, Check("demo", "fail", f"no answer to {_QUESTION!r}")]
    return [engine, Check("demo", "ok", f"{_QUESTION!r} is answered {shown!r}")]
