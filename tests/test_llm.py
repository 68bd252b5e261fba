"""Batches from Python: text or ids in, whole answers out."""

import doctest
import json
from pathlib import Path

import pytest
from msgspec.structs import replace

import ossia.llm
from ossia import LLM, SamplingParams
from ossia.config import ModelConfig, model_config_to_hf
from ossia.engine.messages import Constraint
from ossia.errors import ConfigError, ContextLengthExceeded, InvalidRequest
from ossia.harmony.tokenizer import CALL, CHANNEL, END, MESSAGE, RETURN
from ossia.turn import OutputFormat, ToolChoice

GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(tmp_path_factory) -> LLM:
    """Random weights with the real vocabulary."""
    directory: Path = tmp_path_factory.mktemp("tiny")
    model = ModelConfig(
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=32,
        num_experts=2,
        experts_per_token=1,
        intermediate_size=32,
        max_context=1024,
    )
    (directory / "config.json").write_text(json.dumps(model_config_to_hf(model)))
    options = {"device": "cpu", "num_threads": 1, "kv_cache_memory": 32 << 20}
    return LLM(str(directory), load_format="dummy", **options)


class Scripted:
    """The network, but saying what it is told, whatever it is asked."""

    def __init__(self, model, script: list[int]) -> None:
        self._model, self._script = model, script
        self.config, self.dtype = model.config, model.dtype
        self._prompt_end = 0

    def forward(self, batch, caches):
        logits = self._model.forward(batch, caches)
        if batch.full.max_query_len > 1:
            self._prompt_end = int(batch.positions[-1])
        for row, token in enumerate(batch.logit_rows.tolist()):
            place = int(batch.positions[token]) - self._prompt_end
            logits[row, self._script[place]] = 1000.0
        return logits


@pytest.fixture
def says(llm, monkeypatch):
    """Makes the network say the given tokens."""

    def script(*parts: str | int) -> list[int]:
        tokens: list[int] = []
        for part in parts:
            tokens += [part] if isinstance(part, int) else llm.tokenizer.encode(part)
        runner = llm._core._runner
        monkeypatch.setattr(runner, "_model", Scripted(runner._model, tokens))
        return tokens

    return script


def ask(llm: LLM, text: str = "hi", **options):
    conversation = [{"role": "user", "content": text}]
    options = {"use_tqdm": False, **options}
    return llm.chat([conversation], SamplingParams(max_tokens=64), **options)[0]


def test_text_and_token_ids_are_the_same_prompt(llm):
    ids = llm.tokenizer.encode("Hello world")
    first, second = llm.generate(["Hello world", ids], GREEDY, use_tqdm=False)
    assert first.token_ids == second.token_ids
    assert first.text == llm.tokenizer.decode(first.token_ids)
    assert first.prompt_token_ids == ids
    assert (first.prompt_tokens, first.completion_tokens) == (len(ids), 8)
    assert first.finish_reason == "length"
    [alone] = llm.generate("Hello world", GREEDY, use_tqdm=False)
    [alone_ids] = llm.generate(ids, GREEDY, use_tqdm=False)
    assert alone.token_ids == alone_ids.token_ids == first.token_ids


def test_answers_stand_in_the_order_of_the_prompts(llm):
    prompts = [f"number {i}" for i in range(12)]
    alone = [llm.generate(p, GREEDY, use_tqdm=False)[0].token_ids for p in prompts]
    lengths = [replace(GREEDY, max_tokens=min(8, i + 1)) for i in range(12)]
    together = llm.generate(prompts, lengths, use_tqdm=False)
    assert [o.token_ids for o in together] == [ids[: i + 1] for i, ids in enumerate(alone)]


def test_choices_of_a_seed_differ_and_repeat(llm):
    params = SamplingParams(seed=5, max_tokens=8, ignore_eos=True)
    outputs = llm.generate(["a", "b"], params, n=3, use_tqdm=False)
    assert len(outputs) == 6
    assert len({tuple(o.token_ids) for o in outputs}) == 6
    again = llm.generate("b", params, n=3, use_tqdm=False)
    assert [o.token_ids for o in again] == [o.token_ids for o in outputs[3:]]


def test_a_chat_answer_is_split_into_its_parts(llm, says):
    tokens = says(
        *(CHANNEL, "analysis", MESSAGE, "Think.", 200007, 200006, "assistant"),
        *(CHANNEL, "final", MESSAGE, "Hello!", RETURN),
    )
    output = ask(llm)
    assert (output.reasoning, output.text, output.finish_reason) == ("Think.", "Hello!", "stop")
    assert output.token_ids == tokens
    assert output.reasoning_tokens == len(llm.tokenizer.encode("Think."))
    assert output.tool_calls == []


def test_a_tool_call_is_returned(llm, says):
    says(
        *(" to=functions.add", CHANNEL, "commentary json", MESSAGE, '{"a":1}', CALL),
    )
    numbers = {"type": "object", "properties": {"a": {"type": "integer"}}}
    function = {"name": "add", "parameters": numbers}
    output = ask(llm, tools=[{"type": "function", "function": function}])
    assert output.finish_reason == "tool_calls"
    [call] = output.tool_calls
    assert (call.name, call.arguments) == ("add", '{"a":1}')
    assert output.text == ""


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"enum": [1, 2, 3]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_an_answer_has_the_form_that_was_asked_for(llm):
    form = OutputFormat("json_schema", schema=PERSON)
    outputs = llm.chat(
        [[{"role": "user", "content": f"number {i}"}] for i in range(4)],
        SamplingParams(temperature=2.0, max_tokens=400),
        output=form,
        max_reasoning_tokens=5,
        use_tqdm=False,
    )
    for output in outputs:
        assert output.finish_reason == "stop"
        answer = json.loads(output.text)
        assert answer["age"] in (1, 2, 3)
        assert len(answer["name"]) <= 9
        assert output.reasoning_tokens <= 5
        assert output.reasoning_cut in (None, "max_tokens")


def test_a_function_that_has_to_be_called_is_called(llm):
    tools = [
        {"type": "function", "function": {"name": name, "parameters": PERSON}} for name in "ab"
    ]
    output = llm.chat(
        [{"role": "user", "content": "hi"}],
        SamplingParams(temperature=2.0, max_tokens=600, logit_bias={END: 50.0}),  # short preambles
        tools=tools,
        tool_choice=ToolChoice("required", ("b",)),
        parallel_tool_calls=False,
        max_reasoning_tokens=0,
        use_tqdm=False,
    )[0]
    assert output.finish_reason == "tool_calls"
    [call] = output.tool_calls
    assert call.name == "b"
    assert json.loads(call.arguments)["age"] in (1, 2, 3)


def test_raw_text_follows_a_constraint(llm):
    grammar = 'start: ("yes" | "no") "!" <[200002]>'
    [output] = llm.generate("Well?", constraint=Constraint(grammar=grammar), use_tqdm=False)
    assert output.text.removesuffix("<|return|>") in ("yes!", "no!")
    with pytest.raises(InvalidRequest, match="ignore_eos"):
        llm.generate("Well?", GREEDY, constraint=Constraint(grammar=grammar), use_tqdm=False)


def test_without_the_turn_grammar_what_needs_it_is_refused(llm, monkeypatch):
    with pytest.raises(InvalidRequest, match="0 or more"):
        ask(llm, max_reasoning_tokens=-1)
    monkeypatch.setattr(llm, "_turn_grammar", False)
    before = llm.stats.constrained
    for option in (
        {"output": OutputFormat("json_object")},
        {"tool_choice": ToolChoice("required")},
        {"max_reasoning_tokens": 5},
    ):
        with pytest.raises(InvalidRequest, match="turn_grammar=True"):
            ask(llm, **option)
    assert ask(llm).completion_tokens > 0
    assert llm.stats.constrained == before


def test_a_chat_that_ignores_stop_tokens_has_no_grammar(llm):
    before = llm.stats.constrained
    llm.chat([{"role": "user", "content": "hi"}], GREEDY, use_tqdm=False)
    assert llm.stats.constrained == before


def test_a_stop_string_ends_the_text_and_the_sequence(llm, says):
    says(CHANNEL, "final", MESSAGE, "one two three four", RETURN)
    output = ask(llm, stop=" thr")
    assert (output.text, output.finish_reason) == ("one two", "stop")
    assert output.token_ids[-1] != RETURN
    assert llm.stats.running == llm.stats.full_pages_used == 0


def test_a_fault_of_one_answer_leaves_the_others(llm, monkeypatch):
    runner = llm._core._runner
    model = runner._model

    class Broken:
        config, dtype = model.config, model.dtype

        def forward(self, batch, caches):
            if (batch.token_ids == 77).any():
                raise RuntimeError("broken")
            return model.forward(batch, caches)

    monkeypatch.setattr(runner, "_model", Broken())
    good, bad = llm.generate([[1, 2], [77]], GREEDY, use_tqdm=False)
    assert good.finish_reason == "length"
    assert bad.finish_reason == "error"
    assert "RuntimeError" in (bad.error or "")


def test_wrong_input_is_refused_before_anything_runs(llm):
    steps = llm.stats.steps
    with pytest.raises(ContextLengthExceeded, match=r"Prompt 1: .* 2000 tokens"):
        llm.generate([[1], [1] * 2000], use_tqdm=False)
    with pytest.raises(InvalidRequest, match="top_p"):
        llm.generate("a", SamplingParams(top_p=7.0), use_tqdm=False)
    with pytest.raises(InvalidRequest, match="2 prompts and 1 sampling_params"):
        llm.generate(["a", "b"], [GREEDY], use_tqdm=False)
    with pytest.raises(InvalidRequest, match="role"):
        llm.chat([{"role": "robot", "content": "hi"}], use_tqdm=False)
    with pytest.raises(InvalidRequest, match="content"):
        llm.chat([{"role": "user", "content": 5}], use_tqdm=False)
    with pytest.raises(InvalidRequest, match="reasoning_effort"):
        ask(llm, reasoning_effort="extreme")
    with pytest.raises(InvalidRequest, match="n must be"):
        llm.generate("a", n=0, use_tqdm=False)
    assert llm.stats.steps == steps
    assert llm.generate([], use_tqdm=False) == []


def test_options_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="max-model-len"):
        LLM("gpt-oss-20b", load_format="dummy", max_model_len=10**6, device="cpu")
    with pytest.raises(TypeError, match="no_such_option"):
        LLM("demo", no_such_option=1)


def test_logprobs_stand_beside_the_tokens(llm):
    [output] = llm.generate("a", replace(GREEDY, logprobs=2), use_tqdm=False)
    assert output.logprobs is not None
    assert len(output.logprobs) == len(output.token_ids) == 8
    assert [p.top[0][0] for p in output.logprobs] == output.token_ids


def test_the_progress_bar_counts_answers(llm, capsys):
    llm.generate(["a", "b", "c"], GREEDY)
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert "tokens/s" in shown


def test_the_example_in_the_documentation_runs():
    result = doctest.testmod(ossia.llm)
    assert result.attempted > 0
    assert result.failed == 0
