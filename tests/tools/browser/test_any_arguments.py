"""Whatever a model writes that fits the schema is answered by a display or by a sentence."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ossia.tools.browser import browser_tools
from ossia.tools.options import ToolOptions
from ossia.tools.tool import ToolError

from .conftest import DOCUMENTS, Session

NUMBERS = st.integers(-3, 8) | st.integers() | st.floats()
WORDS = st.sampled_from(
    ["tomatoes", "the", "", '"', "a OR b", "NEAR(", "日本", "_ *", "\0", "\ud800"]
)
TEXT = WORDS | st.text(max_size=20)
URLS = st.sampled_from(["local://guide.md", "local://story.html", "https://127.0.0.1/", "3", "-1"])

CALLS = st.one_of(
    st.tuples(
        st.just("search"),
        st.fixed_dictionaries({"query": TEXT}, optional={"topn": NUMBERS, "source": TEXT}),
    ),
    st.tuples(
        st.just("open"),
        st.fixed_dictionaries(
            {},
            optional={
                "id": NUMBERS | URLS | TEXT,
                "cursor": NUMBERS,
                "loc": NUMBERS,
                "num_lines": NUMBERS,
                "view_source": st.booleans(),
                "source": TEXT,
            },
        ),
    ),
    st.tuples(
        st.just("find"), st.fixed_dictionaries({"pattern": TEXT}, optional={"cursor": NUMBERS})
    ),
)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder: Path = tmp_path_factory.mktemp("documents")
    for name, text in DOCUMENTS.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    tools = browser_tools(ToolOptions(browser_folder=str(folder)))
    yield Session({tool.name: tool for tool in tools})
    for tool in tools:
        asyncio.run(tool.close())


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(calls=st.lists(CALLS, max_size=8), name=st.sampled_from("ab"))
def test_every_call_gives_a_display_or_a_sentence(
    session: Session, calls: list[tuple[str, dict[str, Any]]], name: str
) -> None:
    async def talk() -> None:
        talking = Session(session.tools, name)
        for function, arguments in calls:
            try:
                output = await talking.call(function, **arguments)
            except ToolError as error:
                sentence = str(error)
                sentence.encode()
                assert sentence.endswith(".")
            else:
                output.text.encode()
                assert re.match(
                    r"\[\d+\] .*\n\*\*viewing lines \[\d+ - \d+\] of \d+\*\*\n\nL\d+: ",
                    output.text,
                )
                assert len(output.text) < 40_000

    asyncio.run(talk())
