"""What hostile code finds: nothing of the server, of other conversations, or of the network."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from ossia.tools.python.sandbox import seccomp
from ossia.tools.python.sandbox.linux import machine
from ossia.tools.tool import CallContext


def test_conversations_share_neither_variables_nor_files_nor_processes(notebook: Any) -> None:
    async def calls(tool: Any) -> list[str]:
        setup = "secret = 1; open('/tmp/s', 'w').write('s'); open('/dev/shm/s', 'w').write('s')"
        await tool.call({"code": setup}, CallContext("a"))
        look = (
            "import os\n'secret' in globals(), os.listdir('/tmp'), os.listdir('/dev/shm'), "
            "os.listdir('/mnt/data'), sum(name.isdigit() for name in os.listdir('/proc'))"
        )
        seen = await tool.call({"code": look}, CallContext("b"))
        return [seen.text, (await tool.call({"code": "secret"}, CallContext("a"))).text]

    assert notebook.run(calls) == ["(False, [], [], [], 2)\n", "1\n"]


def test_files_of_the_server_are_not_there(notebook: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    here = Path(__file__).resolve()
    paths = [str(secret), str(here), "/etc/shadow", "/root/.ssh", "/home", "/var", "/sys", "/boot"]
    assert notebook(f"import os; [p for p in {paths} if os.path.exists(p)]")[0].text == "[]\n"


def test_home_folders_show_the_interpreter_at_most(notebook: Any) -> None:
    code = (
        "import os, sys\n"
        "walks = [walk for home in ('/root', '/home') for walk in os.walk(home)]\n"
        "files = [os.path.join(folder, name) for folder, _, names in walks for name in names]\n"
        "[f for f in files if not f.startswith(sys.base_prefix)]"
    )
    assert notebook(code)[0].text == "[]\n"


def test_the_environment_says_nothing_of_the_server(
    notebook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "sk-very-secret")
    code = "import os, glob; sorted(os.environ), [open(f).read() for f in ['/proc/self/environ']]"
    text = notebook(code)[0].text
    assert "PATH" in text
    assert "API_KEY" not in text
    assert "secret" not in text


def test_there_is_no_network(notebook: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)"
        refused, packet, local = notebook(
            connect,
            "socket.socket(17, socket.SOCK_RAW)",
            "socket.socketpair()[0].family.name",
        )
    assert "Address family not supported" in refused.text
    assert "Address family not supported" in packet.text
    assert local.text == "'AF_UNIX'\n"


def test_processes_of_the_server_are_neither_seen_nor_killed(notebook: Any) -> None:
    seen, killed, own = notebook(
        "import os, signal; sorted(int(n) for n in os.listdir('/proc') if n.isdigit())",
        f"os.kill({os.getpid()}, 0)",
        "os.kill(1, signal.SIGKILL); os.kill(1, signal.SIGSTOP); 'alive'",
    )
    assert seen.text == "[1, 2]\n"
    assert "ProcessLookupError" in killed.text
    assert own.text == "'alive'\n"


def test_the_supervisor_cannot_be_looked_into(notebook: Any) -> None:
    paths = [f"/proc/1/{name}" for name in ("environ", "mem", "maps", "fd/0", "root/etc")]
    outputs = notebook(*(f"open({path!r})" for path in paths))
    assert all("PermissionError" in output.text for output in outputs)


def test_code_is_nobody_without_any_privilege(notebook: Any) -> None:
    code = "import os; os.getresuid(), os.getresgid(), os.getgroups()"
    status = (
        "{k: v.strip() for k, v in (line.split(':', 1) for line in open('/proc/self/status'))"
        " if k[:3] in ('Cap', 'NoN') or k == 'Seccomp'}"
    )
    ids, privileges = notebook(code, status)
    assert ids.text.startswith("((65534, 65534, 65534), (65534, 65534, 65534)")
    assert privileges.text.count("'0000000000000000'") == 5
    assert "'NoNewPrivs': '1'" in privileges.text
    assert "'Seccomp': '2'" in privileges.text


def test_nothing_but_the_scratch_folders_can_be_written(notebook: Any) -> None:
    code = (
        "import itertools, os, sys, sysconfig\n"
        "def refused(folder):\n"
        "    try:\n"
        "        open(folder + '/x', 'w')\n"
        "    except OSError:\n"
        "        return True\n"
        "    return False\n"
        "walk = (p for p, _, _ in os.walk('/') if not p.startswith('/proc'))\n"
        "folders = list(itertools.islice(walk, 300))\n"
        "folders += [sysconfig.get_path('stdlib'), sys.prefix + '/lib', '/usr/bin', '/etc']\n"
        "[p for p in folders if not refused(p)]"
    )
    text = notebook(code)[0].text
    assert set(text.strip("[]\n").replace("'", "").split(", ")) <= {
        "/tmp",
        "/dev/shm",
        "/mnt/data",
    }
    assert "/tmp" in text


def test_refused_system_calls_are_refused(notebook: Any) -> None:
    column = ("x86_64", "aarch64").index(machine())
    numbers = {n: call[column] for n, call in seccomp.REFUSED.items() if call[column] is not None}
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"[name for name, number in {numbers}.items()\n"
        " if libc.syscall(number, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 1]"
    )
    assert notebook(code)[0].text == "[]\n"


def test_no_new_namespaces(notebook: Any) -> None:
    clone = {"x86_64": 56, "aarch64": 220}[machine()]
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "def errno(*a): return libc.syscall(*a), ctypes.get_errno()\n"
        f"errno({clone}, 0x10000000 | 17, 0, 0, 0, 0), errno(435, 0, 0)"
    )
    assert notebook(code)[0].text == "((-1, 1), (-1, 38))\n"
