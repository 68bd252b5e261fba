"""The bodies of the Responses API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from ossia.server.body import RequestModel
from ossia.server.schema.chat import Effort
from ossia.server.schema.common import Count, ModelName

JsonObject = dict[str, Any]


def _small(metadata: dict[str, str]) -> dict[str, str]:
    if len(metadata) > 16:
        raise ValueError("takes at most 16 keys")
    if any(len(key) > 64 or len(value) > 512 for key, value in metadata.items()):
        raise ValueError("takes keys of up to 64 characters and values of up to 512")
    return metadata


Metadata = Annotated[
    dict[str, str],
    AfterValidator(_small),
    Field(description="Only sent back: up to 16 keys of 64 characters, with values of 512."),
]


class ReasoningOptions(RequestModel):
    """How much the model thinks, and what the answer shows of it."""

    effort: Effort | None = Field(None, description="As `reasoning_effort` of Chat Completions.")
    summary: str | None = Field(
        None,
        description="auto, concise or detailed: reasoning items carry their text as summary too, "
        "for clients that show nothing else. gpt-oss writes no summaries of its own.",
    )
    generate_summary: str | None = Field(None, description="Older name of `summary`.")


class TextFormat(RequestModel):
    """What the text of the answer must be; the reasoning before it is free."""

    type: Literal["text", "json_object", "json_schema", "regex", "choice", "grammar"]
    name: str | None = Field(None, description="Of type json_schema; shown to the model.")
    description: str | None = Field(None, description="Of type json_schema; shown to the model.")
    schema_: JsonObject | bool | None = Field(None, alias="schema", description="Of json_schema.")
    strict: bool | None = Field(
        None,
        description="true: a schema that cannot be enforced whole is refused. Else as much of it "
        "as can be is enforced.",
    )
    pattern: str | None = Field(
        None, description="Of type regex: what the whole answer matches, in Rust's syntax."
    )
    choices: list[str] | None = Field(None, description="Of type choice: the answer is one.")
    syntax: Literal["lark", "ebnf"] | None = Field(
        None, description="Of type grammar. Default lark; ebnf is the GBNF dialect."
    )
    grammar: str | None = Field(None, description="Of type grammar; its start rule is the answer.")


class TextOptions(RequestModel):
    """The form of the answer."""

    format: TextFormat | None = None
    verbosity: str | None = Field(None, description="Ignored: say in a message what to aim at.")


class ConversationName(RequestModel):
    """A conversation by its id."""

    id: str


class ResponseStreamOptions(RequestModel):
    """What a stream carries besides the events of OpenAI's API."""

    include_tool_progress: bool | None = Field(
        None,
        description="Partial output of tools, as events of type ossia.tool_call.progress. Clients "
        "that refuse unknown events should leave it out.",
    )
    include_obfuscation: bool | None = Field(None, description="Ignored.")


class TurnOptions(RequestModel):
    """What the prompt of a response depends on."""

    model: ModelName = None
    input: str | list[JsonObject] | None = Field(
        None, description="A text of the user, or items as the API itself returns them."
    )
    instructions: str | list[JsonObject] | None = Field(
        None, description="Of this response alone; not carried over by previous_response_id."
    )
    previous_response_id: str | None = Field(
        None, description="Continue after this stored response."
    )
    conversation: str | ConversationName | None = Field(
        None, description="Continue this conversation, and add to it."
    )
    tools: list[JsonObject] | None = Field(
        None,
        description="function and custom tools of the client, groups of them (namespace), mcp "
        "servers, web_search and code_interpreter. Left out: all tools that the server runs. "
        "What this server cannot run is left out of the prompt.",
    )
    tool_choice: str | JsonObject | None = Field(
        None, description="auto (the default), none, required, a tool by its name, allowed_tools."
    )
    parallel_tool_calls: bool | None = Field(
        None, description="false: at most one call in a turn. Default true."
    )
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    truncation: Literal["auto", "disabled"] | None = Field(
        None,
        description="auto: where the conversation is too long its oldest items are left out. "
        "disabled (the default): it is refused.",
    )


class ResponsesRequest(TurnOptions):
    """A response that the model is asked for."""

    background: bool | None = Field(
        None, description="Answer at once and go on; the response is fetched later by its id."
    )
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    store: bool | None = Field(None, description="false: nothing of it is kept. Default true.")
    include: list[str] | None = Field(
        None,
        description="reasoning.encrypted_content, message.output_text.logprobs, "
        "web_search_call.action.sources, code_interpreter_call.outputs.",
    )
    max_output_tokens: Count | None = Field(
        None, description="Reasoning and calls included. Default: up to the end of the context."
    )
    max_tool_calls: Count | None = Field(
        None, description="Calls that the server runs in this response. Default 64."
    )
    max_reasoning_tokens: Count | None = Field(
        None, description="As `max_reasoning_tokens` of Chat Completions, for each turn."
    )
    include_reasoning: bool | None = Field(
        None, description="false: reasoning items come without their text."
    )
    temperature: float | None = Field(None, description="0 is greedy. Default 1.")
    top_p: float | None = Field(None, description="Default 1.")
    top_logprobs: Count | None = Field(None, description="0 to 20.")
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = Field(None, description="The same request gives the same tokens.")
    metadata: Metadata | None = None
    user: str | None = Field(None, description="Only sent back.")
    safety_identifier: str | None = Field(None, description="Only sent back.")
    prompt_cache_key: str | None = Field(None, description="Only sent back.")
    service_tier: str | None = Field(None, description="Ignored: there is one tier.")
    prompt: JsonObject | None = Field(
        None, description="Refused: there are no stored prompts here; send them as instructions."
    )

    def wants(self, what: str) -> bool:
        """Whether `include` names it."""
        return what in (self.include or ())


class CompactRequest(RequestModel):
    """A conversation that is to be made shorter."""

    model: ModelName = None
    input: str | list[JsonObject] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None


class ConversationRequest(RequestModel):
    """A new conversation."""

    items: list[JsonObject] | None = Field(None, description="At most 100.")
    metadata: Metadata | None = None


class ConversationUpdate(RequestModel):
    """New metadata of a conversation."""

    metadata: Metadata | None = None


class ConversationItems(RequestModel):
    """Items to add to a conversation."""

    items: list[JsonObject] = Field(description="At most 100.")
