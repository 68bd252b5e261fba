from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from ossia.cli.doctor.check import Check, guarded
from ossia.cli.doctor.machine import port, satisfies
from ossia.cli.doctor.warm import cache_folders

from .conftest import Run


def test_every_part_is_looked_at_and_nothing_is_broken(ossia: Run) -> None:
    result = ossia("doctor", "--json")
    assert result.returncode == 0, result.stdout
    report = json.loads(result.stdout)
    status = {check["name"]: check["status"] for check in report["checks"]}
    expected = {"Python", "torch", "CPU", "memory", "cache", "port", "vocabulary", "TORCH"}
    expected |= {"device", "dtype", "engine", "demo", "responses", "python tool", "tool plug-ins"}
    expected |= {"native"}
    assert expected <= status.keys()
    assert "GPU" in status or "GPU 0" in status
    assert status["vocabulary"] == status["torch"] == "ok"
    assert report["ok"] is True
    assert "fail" not in status.values()


def test_a_broken_installation_is_exit_code_1(ossia: Run, tmp_path: Path) -> None:
    cache = tmp_path / "file"
    cache.write_text("")  # not a directory: the demo cannot be unpacked there
    result = ossia("doctor", OSSIA_CACHE_DIR=str(cache))
    assert result.returncode == 1
    assert "fail  demo " in result.stdout


def test_nothing_is_compiled_where_models_run_on_the_cpu(ossia: Run) -> None:
    result = ossia("doctor", "--warm", "--json", CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 0, result.stdout
    (check,) = json.loads(result.stdout)["checks"]
    assert check == {
        "name": "warm",
        "status": "ok",
        "detail": "nothing to compile: models run on the CPU here",
    }


def test_a_model_that_is_not_there_cannot_be_warmed(ossia: Run) -> None:
    result = ossia("doctor", "--warm", "gpt-oss-7b")
    assert result.returncode == 1
    assert "fail  warm " in result.stdout
    assert "gpt-oss-20b" in result.stdout


def test_caches_of_kernels_follow_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setenv("OSSIA_CACHE_DIR", str(tmp_path / "ossia"))
    assert cache_folders() == (tmp_path / "triton", tmp_path / "ossia" / "kernels")
    monkeypatch.delenv("TRITON_CACHE_DIR")
    monkeypatch.setenv("TRITON_HOME", str(tmp_path))
    assert cache_folders()[0] == tmp_path / ".triton" / "cache"


def test_a_port_in_use_is_a_warning() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        assert [check.status for check in port(number)] == ["warn"]
    assert [check.status for check in port(number)] == ["ok"]


def test_an_exception_is_a_failed_check() -> None:
    def look() -> list[Check]:
        raise RuntimeError("no such thing")

    assert list(guarded("thing", look)) == [  # type: ignore[arg-type]
        Check("thing", "fail", "RuntimeError: no such thing")
    ]


def test_versions_are_compared_as_numbers() -> None:
    bounds = "torch<2.14,>=2.11"
    assert satisfies("2.11.0", bounds)
    assert satisfies("2.13.1+cu130", bounds)
    assert not satisfies("2.9.1", bounds)
    assert not satisfies("2.14.0", bounds)
