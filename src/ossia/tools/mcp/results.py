"""What a server answered to a call, as the model is told."""

from __future__ import annotations

import json
from typing import Any

from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
)

from ossia.tools.tool import ToolOutput


def tool_output(result: CallToolResult) -> ToolOutput:
    """Text as it is, other content in a word.

    `details` hold what text cannot: `content`, the blocks of MCP where not all are text, and
    `structured_content`.
    """
    details: dict[str, Any] = {}
    if not all(isinstance(block, TextContent) for block in result.content):
        details["content"] = [
            block.model_dump(mode="json", by_alias=True, exclude_none=True)
            for block in result.content
        ]
    if result.structured_content is not None:
        details["structured_content"] = result.structured_content
    text = "\n".join(_in_words(block) for block in result.content)
    if result.structured_content is not None and not text:
        text = json.dumps(result.structured_content, ensure_ascii=False)
    return ToolOutput(text, is_error=bool(result.is_error), details=details)


def _in_words(block: ContentBlock) -> str:
    match block:
        case TextContent():
            return block.text
        case ImageContent():
            return f"[an image, {block.mime_type}, that cannot be shown here]"
        case AudioContent():
            return f"[a sound, {block.mime_type}, that cannot be played here]"
        case ResourceLink():
            return f"[the resource {block.uri}: {block.description or block.title or block.name}]"
        case EmbeddedResource():
            if isinstance(block.resource, BlobResourceContents):
                return f"[the resource {block.resource.uri}, {block.resource.mime_type or 'bytes'}]"
            return block.resource.text
