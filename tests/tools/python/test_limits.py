"""Code that takes too much: time, memory, processes, files, output."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from ossia.tools.python import layout
from ossia.tools.python.sandbox.limits import PROCESSES
from ossia.tools.python.sandbox.output import KEPT
from ossia.tools.tool import CallContext

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def test_an_endless_loop_is_interrupted_and_variables_stay(notebook: Any) -> None:
    late, after = notebook("x = 1\nwhile True: pass", "x", seconds=1)
    assert late.is_error
    assert "KeyboardInterrupt" in late.text
    assert "interrupted after 1 s; variables are kept" in late.text
    assert after.text == "1\n"


def test_code_that_does_not_stop_when_interrupted_is_killed(
    notebook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "GRACE", 0.3)
    code = (
        "import time\nx = 1\nwhile True:\n"
        "    try: time.sleep(0.01)\n    except KeyboardInterrupt: pass"
    )
    late, after = notebook(code, "x", seconds=1)
    assert "killed after 1 s" in late.text
    assert "next call starts a new session" in late.text
    assert "NameError" in after.text


def test_a_program_that_the_code_waits_for_is_stopped_too(notebook: Any) -> None:
    late, after = notebook("x = 1; import os; os.system('sleep 1000')", "x", seconds=1)
    assert "interrupted" in late.text
    assert after.text == "1\n"


def test_nothing_runs_between_two_calls(notebook: Any) -> None:
    async def calls(tool: Any) -> float:
        start = "import subprocess, time; p = subprocess.Popen(['sh', '-c', 'while :; do :; done'])"
        await tool.call({"code": start}, CallContext("a"))
        await asyncio.sleep(1)
        used = "sum(map(int, open(f'/proc/{p.pid}/stat').read().split()[13:15]))"
        return int((await tool.call({"code": used}, CallContext("a"))).text) / CLOCK_TICKS

    assert notebook.run(calls) < 0.5  # seconds of processor time


def test_one_huge_object_is_a_memory_error(notebook: Any) -> None:
    error, after = notebook("x = 1; y = bytearray(1 << 34)", "x")
    assert error.text.endswith("MemoryError\n")
    assert after.text == "1\n"


def test_many_small_objects_are_a_memory_error_and_can_be_deleted(notebook: Any) -> None:
    error, _, after = notebook(
        "x = []\nwhile True: x.append(bytes(10000))", "del x", "len(bytes(300 << 20))"
    )
    assert error.text.endswith("MemoryError\n")
    assert after.text == f"{300 << 20}\n"


def test_memory_is_limited_for_all_processes_together(notebook: Any) -> None:
    code = (
        "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n"
        "        kept = b'x' * (200 << 20)\n        time.sleep(60)\ntime.sleep(60)"
    )
    bomb, after = notebook(code, "1")
    assert "more than 512 MB of memory" in bomb.text
    assert after.text == "1\n"


def test_memory_that_processes_share_is_counted_once(notebook: Any) -> None:
    code = (
        "import os, time\nkept = b'x' * (200 << 20)\nfor _ in range(6):\n"
        "    if os.fork() == 0:\n        time.sleep(0.5)\n        os._exit(0)\n"
        "for _ in range(6): os.wait()\nprint('fine')"
    )
    assert notebook(code)[0].text == "fine\n"


def test_a_fork_bomb_is_contained(notebook: Any) -> None:
    code = (
        "import os, time\nchildren = 0\ntry:\n    while True:\n"
        "        if os.fork() == 0:\n            time.sleep(60)\n            os._exit(0)\n"
        "        children += 1\nexcept OSError as error:\n    print(children, error.errno)"
    )
    children, number = notebook(code)[0].text.split()
    assert int(children) < PROCESSES
    assert number == "11"


def test_a_fork_bomb_that_grows_from_all_its_children_ends_with_its_time(notebook: Any) -> None:
    code = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    bomb, after = notebook(code, "1", seconds=1)
    assert bomb.is_error
    assert after.text == "1\n"


def test_a_huge_file_is_refused(notebook: Any) -> None:
    assert "File too large" in notebook("open('x', 'wb').truncate(1 << 40)")[0].text


def test_all_files_together_are_limited(notebook: Any) -> None:
    code = (
        "part = bytes(1 << 20)\nfor folder in ('/tmp', '/mnt/data', '/dev/shm'):\n"
        "    with open(folder + '/x', 'wb') as file:\n"
        "        for _ in range(100): file.write(part)"
    )
    assert "No space left on device" in notebook(code)[0].text


def test_of_endless_output_the_middle_is_cut(notebook: Any) -> None:
    code = "print('begin')\nfor i in range(30_000): print(i)\nprint('end')"
    text = notebook(code)[0].text
    assert text.startswith("begin\n0\n1\n")
    assert text.endswith("\n29999\nend\n")
    assert "bytes of output left out" in text
    assert KEPT <= len(text) < KEPT + 100


def test_limits_cannot_be_raised(notebook: Any) -> None:
    code = (
        "import resource\n"
        "for what in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):\n"
        "    resource.setrlimit(what, (1 << 50, 1 << 50))"
    )
    assert "not allowed to raise maximum limit" in notebook(code)[0].text
