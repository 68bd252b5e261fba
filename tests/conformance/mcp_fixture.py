"""The server that the MCP conformance suite asks for, made of tools like any of ours.

    python mcp_fixture.py PORT

The suite calls tools by certain names and looks at what comes of it. Those that make the server
log, sample or ask are left out: our tools do none of that (`mcp_baseline.yml`).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import uvicorn

from ossia.tools.mcp.app import mcp_app
from ossia.tools.tool import CallContext, Tool, ToolError, ToolOutput

PNG = (  # one red pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
)
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="  # one sample
NOTHING: Mapping[str, Any] = {"type": "object", "properties": {}}


class Gives(Tool):
    """Answers with the same content every time."""

    def __init__(self, name: str, content: Sequence[Mapping[str, Any]]) -> None:
        self.name = name
        self.description = f"Gives {', '.join(str(block['type']) for block in content)}."
        self.parameters = NOTHING
        self._content = content

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        return ToolOutput("content", details={"content": self._content})


class Text(Tool):
    name = "test_simple_text"
    description = "Gives text."
    parameters = NOTHING

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        return ToolOutput("This is a simple text response for testing.")


class Fails(Tool):
    name = "test_error_handling"
    description = "Fails."
    parameters = NOTHING

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        raise ToolError("This tool intentionally returns an error for testing")


class Progresses(Tool):
    name = "test_tool_with_progress"
    description = "Tells its progress."
    parameters = NOTHING

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        for done in (0, 50, 100):
            context.progress(f"Completed step {done} of 100")
            await asyncio.sleep(0.05)
        return ToolOutput("done")


class Schema(Tool):
    name = "json_schema_2020_12_tool"
    description = "Tool with JSON Schema 2020-12 features"
    parameters: Mapping[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            }
        },
        "properties": {"name": {"type": "string"}, "address": {"$ref": "#/$defs/address"}},
        "additionalProperties": False,
    }

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        return ToolOutput("fits")


def tools() -> list[Tool]:
    image = {"type": "image", "data": PNG, "mimeType": "image/png"}
    return [
        Text(),
        Fails(),
        Progresses(),
        Schema(),
        Gives("test_image_content", [image]),
        Gives("test_audio_content", [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]),
        Gives(
            "test_embedded_resource",
            [_resource("test://embedded-resource", "text/plain", "This is an embedded resource.")],
        ),
        Gives(
            "test_multiple_content_types",
            [
                {"type": "text", "text": "Multiple content types test:"},
                image,
                _resource("test://mixed-content-resource", "application/json", '{"value": 123}'),
            ],
        ),
    ]


def _resource(uri: str, mime_type: str, text: str) -> Mapping[str, Any]:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": text}}


async def main(port: int) -> None:
    served = tools()
    app = mcp_app(lambda: served)
    config = uvicorn.Config(app, port=port, lifespan="off", log_level="error", ws="none")
    try:
        await uvicorn.Server(config).serve()
    finally:
        await app.stop()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
