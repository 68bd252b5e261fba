from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest

from ossia.cli import values


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (values.token_count, "131072", 131072),
        (values.token_count, "32k", 32768),
        (values.token_count, "128K", 131072),
        (values.byte_count, "2GiB", 2 * 2**30),
        (values.byte_count, "2gb", 2 * 10**9),
        (values.byte_count, "1.5G", 3 * 2**29),
        (values.byte_count, "512 MiB", 2**29),
        (values.byte_count, "4096", 4096),
        (values.whole_number(0, 9), "9", 9),
        (values.real_number(0, 1, low_open=True), "1", 1.0),
        (values.choice("auto", "TRITON"), "triton", "TRITON"),
        (values.counts, "1,8,32", (1, 8, 32)),
        (values.length_range, "128", (128, 128)),
        (values.length_range, "64-1k", (64, 1024)),
        (values.server_url, "http://localhost:8000/v1/", "http://localhost:8000"),
        (values.server_url, "https://host/path", "https://host/path"),
    ],
)
def test_values_are_read_as_people_write_them(
    parse: Callable[[str], Any], text: str, value: object
) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "texts"),
    [
        (values.token_count, ["0", "-1", "32kk", "1.5k", "", "3M"]),
        (values.byte_count, ["0", "-2GiB", "2XB", "GiB", "nan", "0.1"]),
        (values.whole_number(1), ["0", "1.0", "x", ""]),
        (values.real_number(0, 1, low_open=True), ["0", "1.01", "nan", "inf", "x"]),
        (values.real_number(0), ["inf", "-0.1"]),
        (values.choice("cpu", "cuda"), ["gpu", ""]),
        (values.counts, ["0", "1,,2", "", "a"]),
        (values.length_range, ["9-8", "0-4", "-", "-4"]),
        (values.not_empty, ["", "  "]),
        (values.server_url, ["localhost:8000", "http://", "ftp://host"]),
    ],
)
def test_other_values_are_refused(parse: Callable[[str], Any], texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError, match=r"must"):
            parse(text)
