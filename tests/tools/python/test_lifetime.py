"""When sessions begin and end, and that nothing is left of them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from ossia.tools.python import layout
from ossia.tools.python.pool import Pool
from ossia.tools.tool import CallContext, ToolError


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


Children = Callable[[], list[psutil.Process]]


@pytest.fixture
def children() -> Children:
    """Processes below this one that the test itself has started; other tests have servers here."""
    before = set(psutil.Process().children(recursive=True))

    def new() -> list[psutil.Process]:
        return [p for p in psutil.Process().children(recursive=True) if p not in before]

    return new


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise SystemExit(3)", "exit status 3"),
        ("exit()", "exit status 0"),
        ("import os; os._exit(4)", "exit status 4"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os; os.closerange(0, 100)", "lost"),
    ],
)
def test_code_that_ends_its_process_is_told_and_the_next_call_begins_anew(
    notebook: Any, code: str, told: str
) -> None:
    _, ended, after, fine = notebook("x = 1", f"print('before')\n{code}", "x", "5")
    assert ended.is_error
    assert ended.text.startswith("before\n")
    assert told in ended.text
    assert "variables of earlier calls are lost" in ended.text
    assert "NameError" in after.text
    assert fine.text == "5\n"


def test_cancelling_a_call_stops_its_code_and_keeps_variables(notebook: Any) -> None:
    async def calls(tool: Any) -> str:
        printed = asyncio.Event()
        context = CallContext("a", lambda _: printed.set())
        code = "import time\nx = 1\nprint()\nwhile True: time.sleep(0.01)"
        running = asyncio.create_task(tool.call({"code": code}, context))
        await asyncio.wait_for(printed.wait(), 30)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return (await tool.call({"code": "x"}, CallContext("a"))).text

    assert notebook.run(calls) == "1\n"


def test_a_cancelled_call_that_waits_for_its_turn_never_runs(notebook: Any) -> None:
    async def calls(tool: Any) -> str:
        printed = asyncio.Event()
        context = CallContext("a", lambda _: printed.set())
        first = asyncio.create_task(
            tool.call({"code": "import time; print(); time.sleep(0.5); x = 1"}, context)
        )
        await asyncio.wait_for(printed.wait(), 30)
        second = asyncio.create_task(tool.call({"code": "x = 2"}, CallContext("a")))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert not (await first).is_error
        return (await tool.call({"code": "x"}, CallContext("a"))).text

    assert notebook.run(calls) == "1\n"


def test_closing_the_tool_ends_all_that_runs(notebook: Any, children: Children) -> None:
    async def calls(tool: Any) -> list[psutil.Process]:
        start = "import subprocess; p = subprocess.Popen(['sleep', '1000'])"
        await tool.call({"code": start}, CallContext("a"))
        return children()

    left = notebook.run(calls)
    assert len(left) == 4  # the launcher, process 1, the driver, and sleep
    assert all(gone(process) for process in left)


def test_an_idle_session_is_ended_and_the_model_is_told(notebook: Any, children: Children) -> None:
    async def run() -> list[bool]:
        pool = Pool(layout.settings(512 << 20), idle_seconds=0.05)
        await pool.run("a", "x = 1", 30, lambda _: None)
        await wait_until(lambda: len(pool) == 0 and not children())
        again, lost = await pool.run("a", "'x' in globals()", 30, lambda _: None)
        await pool.close()
        return [again.output == "False\n", lost]

    assert asyncio.run(run()) == [True, True]


def test_a_session_that_something_killed_is_replaced_and_the_model_is_told(
    notebook: Any, children: Children
) -> None:
    async def calls(tool: Any) -> list[str]:
        await tool.call({"code": "x = 1"}, CallContext("a"))
        started = children()
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):  # one takes the others along
                process.kill()
        await wait_until(lambda: all(gone(process) for process in started))
        outputs = [await tool.call({"code": "'x' in globals()"}, CallContext("a")) for _ in "ab"]
        return [output.text for output in outputs]

    texts = notebook.run(calls)
    assert "restarted" in texts[0] or "lost" in texts[0]
    assert texts[1] == "False\n"


def test_the_session_idle_for_longest_makes_room(notebook: Any) -> None:
    async def run() -> list[str]:
        pool = Pool(layout.settings(512 << 20), most=2)
        for name in ("a", "b", "a", "c"):
            await pool.run(name, f"x = {name!r}", 30, lambda _: None)
        assert len(pool) == 2
        seen = [await pool.run(name, "x", 30, lambda _: None) for name in ("a", "b")]
        await pool.close()
        return [outcome.how for outcome, _ in seen] + [str(lost) for _, lost in seen]

    assert asyncio.run(run()) == ["ok", "error", "False", "True"]


def test_with_all_sessions_at_work_another_conversation_is_refused(notebook: Any) -> None:
    async def run() -> None:
        pool = Pool(layout.settings(512 << 20), most=1)
        printed = asyncio.Event()
        busy = asyncio.create_task(
            pool.run("a", "print()\nwhile True: pass", 60, lambda _: printed.set())
        )
        await asyncio.wait_for(printed.wait(), 30)
        with pytest.raises(ToolError, match="later"):
            await pool.run("b", "1", 30, lambda _: None)
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
        await pool.close()

    asyncio.run(run())


SERVER = """
import asyncio
from ossia.tools.options import ToolOptions
from ossia.tools.python.tool import PythonTool
from ossia.tools.tool import CallContext

async def main():
    tool = PythonTool(ToolOptions())
    start = "import subprocess, os; p = subprocess.Popen(['setsid', 'sleep', '1000'])"
    await tool.call({"code": start}, CallContext("idle"))
    code = start + "; print(1)\\nwhile True: pass"
    context = CallContext("busy", lambda _: print("running", flush=True))
    await tool.call({"code": code}, context)

asyncio.run(main())
"""


def test_nothing_outlives_a_killed_server(notebook: Any) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"running\n"
        started = psutil.Process(server.pid).children(recursive=True)
        assert len(started) == 8
        server.send_signal(signal.SIGKILL)
        asyncio.run(wait_until(lambda: all(gone(process) for process in started)))
