"""Code runs as in a notebook: its variables stay, its last value is shown."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ossia.tools.options import ToolOptions
from ossia.tools.python import python_tool, sandbox_report
from ossia.tools.tool import CallContext, ToolError


def test_variables_live_from_call_to_call(notebook: Any) -> None:
    assert [output.text for output in notebook("x = 20", "x += 1", "x * 2")][2] == "42\n"


def test_the_value_of_the_last_expression_is_shown(notebook: Any) -> None:
    none, text, printed, nothing = notebook("None", "'a'", "print('b'); 1 + 1", "y = 5")
    assert text.text == "'a'\n"
    assert printed.text == "b\n2\n"
    assert "print" in none.text
    assert "print" in nothing.text


def test_both_streams_come_back_in_order(notebook: Any) -> None:
    code = (
        "import sys, os\nprint('1')\nprint('2', file=sys.stderr)\nos.system('echo 3')\n"
        "print('4', end='')\nprint('5', file=sys.stderr, end='')"
    )
    assert notebook(code)[0].text == "1\n2\n3\n45\n"


def test_a_traceback_is_the_users_code_only(notebook: Any) -> None:
    output = notebook("def f():\n    return 1 / 0\n", "f()")[1]
    assert output.is_error
    assert output.text.startswith('Traceback (most recent call last):\n  File "<cell 2>", line 1')
    assert "return 1 / 0" in output.text
    assert "driver" not in output.text


def test_a_syntax_error_shows_its_line_and_nothing_else(notebook: Any) -> None:
    assert notebook("1 +")[0].text.startswith('  File "<cell 1>", line 1\n    1 +\n')


def test_endless_recursion_is_told_in_few_lines(notebook: Any) -> None:
    text = notebook("def f(): return g()\ndef g(): return f()\nf()")[0].text
    assert "RecursionError" in text
    assert len(text.splitlines()) < 50


def test_numpy_is_offered_where_the_server_has_it(notebook: Any) -> None:
    pytest.importorskip("numpy")
    assert notebook("import numpy as np; int(np.arange(4) @ np.arange(4))")[0].text == "14\n"


def test_other_packages_of_the_server_are_not_offered(notebook: Any) -> None:
    outputs = notebook("import pytest", "import msgspec", "import ossia")
    assert all("ModuleNotFoundError" in output.text for output in outputs)


def test_the_standard_library_works(notebook: Any) -> None:
    asynchronous, parallel, stored = notebook(
        "import asyncio; asyncio.run(asyncio.sleep(0, 'a'))",
        "import multiprocessing; print(multiprocessing.Pool(2).map(abs, [-1, -2]))",
        "import sqlite3; sqlite3.connect('/mnt/data/a').execute('select 1').fetchall()",
    )
    assert asynchronous.text == "'a'\n"
    assert parallel.text == "[1, 2]\n"
    assert stored.text == "[(1,)]\n"


def test_code_starts_in_a_folder_to_write_in(notebook: Any) -> None:
    text = notebook("open('a.txt', 'w').write('abc')", "open('/mnt/data/a.txt').read()")[1].text
    assert text == "'abc'\n"


def test_output_is_passed_on_while_the_code_runs(notebook: Any) -> None:
    async def calls(tool: Any) -> list[str]:
        printed: asyncio.Queue[str] = asyncio.Queue()
        context = CallContext("a", printed.put_nowait)
        code = "import time\nprint('first')\nwhile True: time.sleep(0.01)"
        running = asyncio.create_task(tool.call({"code": code}, context))
        first = await asyncio.wait_for(printed.get(), 30)
        still_running = not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return [first, str(still_running)]

    assert notebook.run(calls) == ["first\n", "True"]


def test_standard_input_is_at_its_end(notebook: Any) -> None:
    assert "EOFError" in notebook("input()")[0].text


def test_code_that_forks_does_not_answer_twice(notebook: Any) -> None:
    _, after = notebook("import os\nif os.fork(): os.wait()\nprint('x')", "2")
    assert after.text == "2\n"


def test_code_that_takes_the_streams_away_harms_one_call_at_most(notebook: Any) -> None:
    _, closed, _, replaced = notebook(
        "import sys; sys.stdout.close()", "print(1)", "sys.stdout = None", "print(2)"
    )
    assert closed.text == "1\n"
    assert replaced.text == "2\n"


def test_nothing_that_is_printed_is_taken_for_an_answer(notebook: Any) -> None:
    frame = r"b'\x00\x00\x00\x0e{\"done\": \"ok\"}'"
    code = f"import os, sys\nos.write(1, {frame})\nos.write(2, {frame})\nprint('end')"
    assert notebook(code)[0].text.endswith('{"done": "ok"}end\n')


def test_the_tool_is_the_one_that_the_model_knows(notebook: Any) -> None:
    tool = python_tool(ToolOptions(python_timeout=7))
    assert (tool.name, tool.builtin, tool.description) == ("python", "python", "")
    assert tool.parameters["required"] == ["code"]
    assert tool.timeout > 7
    assert "seccomp" in sandbox_report()


def test_code_has_to_be_a_text(notebook: Any) -> None:
    async def calls(tool: Any) -> None:
        with pytest.raises(ToolError, match="code"):
            await tool.call({"code": 5}, CallContext("a"))

    notebook.run(calls)
