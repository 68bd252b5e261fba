"""Whether a sandbox can be made on this machine, and if not, what to change."""

from __future__ import annotations

import platform
import select
import subprocess
import sys
from pathlib import Path

from ossia.errors import ConfigError
from ossia.tools.python.sandbox import frames
from ossia.tools.python.sandbox.settings import Settings, to_message
from ossia.tools.python.session import START_SECONDS, StartFailed, check_ready, launch_command

_OLDEST_LINUX = (5, 14)  # counts processes for each user namespace, and has mount_setattr


def require_sandbox(settings: Settings) -> None:
    """Make one sandbox and end it; takes about a tenth of a second.

    Raises:
        ConfigError: this machine refuses.
    """
    if platform.system() != "Linux":
        raise ConfigError(
            "The python tool runs code in a sandbox that only Linux can make; "
            f"leave the tool out on {platform.system() or 'this system'}."
        )
    if _linux_version() < _OLDEST_LINUX:
        raise ConfigError(
            f"The python tool's sandbox needs Linux 5.14 or newer and this is {platform.release()};"
            " leave the tool out or update the kernel."
        )
    try:
        _start_once(settings)
    except StartFailed as error:
        step, reason = error.args
        raise ConfigError(explain(step, reason)) from None


def explain(step: str, reason: str) -> str:
    """One sentence for whoever runs the server: what is missing, and what to do."""
    if step == "start":
        remedy = (
            f"the interpreter in {sys.base_prefix} and its standard library have to work without "
            "other folders; use another one, or leave the tool out"
        )
    elif step == "mounts" and reason.endswith("Permission denied"):
        remedy = (
            "the code runs as the server's user, or as nobody where that is root: make the "
            "interpreter's installation readable for that user, or leave the tool out"
        )
    elif step == "seccomp":
        remedy = (
            "it needs a kernel with seccomp (CONFIG_SECCOMP_FILTER) on x86-64 or aarch64; "
            "leave the tool out here"
        )
    elif _setting("kernel/apparmor_restrict_unprivileged_userns") == 1:
        remedy = (
            "AppArmor keeps user namespaces from programs; allow them with "
            "`sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or leave the tool out"
        )
    elif _setting("kernel/unprivileged_userns_clone") == 0:
        remedy = (
            "allow user namespaces with `sysctl kernel.unprivileged_userns_clone=1`, "
            "or leave the tool out"
        )
    elif _setting("user/max_user_namespaces") == 0:
        remedy = (
            "allow user namespaces with `sysctl user.max_user_namespaces=15000`, "
            "or leave the tool out"
        )
    else:
        remedy = (
            "in a container, start it with `--security-opt seccomp=unconfined --security-opt "
            "apparmor=unconfined --security-opt systempaths=unconfined`; or leave the tool out"
        )
    return f"The python tool's sandbox cannot be made ({step}: {reason}): {remedy}."


def _start_once(settings: Settings) -> None:
    with subprocess.Popen(
        launch_command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(frames.pack(to_message(settings)))
            process.stdin.flush()
            if not select.select([process.stdout], [], [], START_SECONDS)[0]:
                raise StartFailed("start", f"nothing happened in {START_SECONDS:.0f} s")
            check_ready(frames.read(process.stdout.fileno()))
        except BrokenPipeError:
            check_ready(None)
        except BaseException:
            process.kill()
            raise


def _linux_version() -> tuple[int, int]:
    major, minor = platform.release().split(".")[:2]
    return int(major), int("".join(filter(str.isdigit, minor)) or 0)


def _setting(name: str) -> int | None:
    try:
        return int(Path("/proc/sys", name).read_text())
    except (OSError, ValueError):
        return None
