"""The form of the answer: `response_format`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ossia.server.body import RequestModel


class JsonSchemaFormat(RequestModel):
    """A JSON schema and what the model is told about it."""

    name: str | None = Field(None, description="Shown to the model.")
    description: str | None = Field(None, description="Shown to the model.")
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")
    strict: bool | None = Field(
        None,
        description="true: a schema that cannot be enforced whole is refused. Else as much of it "
        "as can be is enforced.",
    )


class ResponseFormat(RequestModel):
    """What the text of the answer must be; the reasoning before it is free."""

    type: Literal["text", "json_object", "json_schema", "regex", "choice", "grammar"]
    json_schema: JsonSchemaFormat | None = Field(None, description="Of type json_schema.")
    pattern: str | None = Field(
        None, description="Of type regex: what the whole answer matches, in Rust's syntax."
    )
    choices: list[str] | None = Field(None, description="Of type choice: the answer is one.")
    syntax: Literal["lark", "ebnf"] | None = Field(
        None, description="Of type grammar. Default lark; ebnf is the GBNF dialect."
    )
    grammar: str | None = Field(None, description="Of type grammar; its start rule is the answer.")
