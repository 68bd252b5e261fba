"""Structured outputs of a model that means nothing: what it completes fits the schema.

The schemas of tests/schemas stand for what clients send, keyword by keyword. Each is asked for
over HTTP, at temperature 1.5, from a model with random weights. `logit_bias` favours tokens that
close strings, arrays and objects: a random model hardly ever says them, and an answer that was cut
off proves nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from ossia.harmony.tokenizer import RETURN, Tokenizer

FILES = sorted((Path(__file__).parents[1] / "schemas").glob("*.json"))
WHERE = "response_format.json_schema.schema"
SEEDS = 3  # answers to each schema
TOKENS = 160  # of an answer, at most
CLOSERS = ('"', '"}', '"]', "}", "]", '",', ",", '":', '":"', "}}", "]}", "null", "true", "false")


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "boolean"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": 1}
    return schema


def large() -> Iterator[tuple[str, Any]]:
    """Schemas that are too long to write down."""
    yield "enum of a thousand", {"enum": [f"value {i}" for i in range(1000)]}
    names = [f"property_{i}" for i in range(100)]
    yield (
        "a hundred optional properties",
        {
            "type": "object",
            "properties": {name: {"type": "null"} for name in names},
            "additionalProperties": False,
        },
    )
    yield (
        "thirty required properties",
        {
            "type": "object",
            "properties": {name: {"enum": [0, 1]} for name in names[:30]},
            "required": names[:30],
            "additionalProperties": False,
        },
    )
    yield "anyOf of two hundred", {"anyOf": [{"const": f"option {i}"} for i in range(200)]}
    yield "thirty levels", nested(30)
    yield "a hundred levels", nested(100)
    yield "a million descriptions", {"type": "null", "description": "long " * 1_000_000}


SCHEMAS: dict[str, Any] = {
    f"{path.stem}: {name}": schema
    for path in FILES
    for name, schema in json.loads(path.read_text(encoding="utf-8")).items()
} | {f"large: {name}": schema for name, schema in large()}


@pytest.fixture(scope="module")
def logit_bias() -> dict[str, float]:
    tokenizer = Tokenizer()
    (final,) = tokenizer.encode("final")
    bias = {str(final): 50.0, str(RETURN): 30.0}
    for text in CLOSERS:
        for token in tokenizer.encode(text)[:1]:
            bias[str(token)] = 14.0
    return bias


def test_what_is_completed_fits_the_schema(
    random_url: str,
    logit_bias: dict[str, float],
    violation: Callable[[Any, str], str | None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert len(SCHEMAS) >= 200

    def ask(schema: Any) -> httpx.Response:
        wanted = {"name": "it", "schema": schema, "strict": True}
        form = {"type": "json_schema", "json_schema": wanted}
        body = {
            "messages": [{"role": "user", "content": "Go."}],
            "response_format": form,
            "temperature": 1.5,
            "seed": 1,
            "n": SEEDS,
            "max_tokens": TOKENS,
            "logit_bias": logit_bias,
        }
        return http.post("/v1/chat/completions", json=body)

    faults: list[str] = []
    counts: Counter[str] = Counter()
    with (
        httpx.Client(base_url=random_url, timeout=120) as http,
        ThreadPoolExecutor(12) as threads,
    ):
        for (name, schema), answer in zip(
            SCHEMAS.items(), threads.map(ask, SCHEMAS.values()), strict=True
        ):
            if answer.status_code == 400:
                counts["schemas refused"] += 1
                error = answer.json()["error"]
                if WHERE not in f"{error['param']} {error['message']}":
                    faults.append(f"{name}: the refusal does not name the place: {error}")
                continue
            if answer.status_code != 200:
                faults.append(f"{name}: status {answer.status_code}: {answer.text}")
                continue
            counts["schemas accepted"] += 1
            completed = False
            for choice in answer.json()["choices"]:
                reason, text = choice["finish_reason"], choice["message"]["content"]
                counts[f"answers with finish reason {reason}"] += 1
                if reason == "stop":
                    completed = True
                    if broken := violation(schema, text or ""):
                        faults.append(f"{name}: {text!r}: {broken}")
                elif reason != "length":
                    faults.append(f"{name}: finish reason {reason}")
            counts["schemas with a completed answer"] += completed
    with capsys.disabled():
        print(f"\n{len(SCHEMAS)} schemas: {dict(counts)}")
    assert not faults, "\n".join(faults)
    assert counts["schemas accepted"] >= 200
    assert counts["schemas with a completed answer"] >= 0.9 * counts["schemas accepted"]
