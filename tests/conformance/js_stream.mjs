// The JavaScript SDK of OpenAI (npm package openai) against a running server.
//
//   cd FOLDER_WITH_node_modules && node PATH/js_stream.mjs http://127.0.0.1:8000/v1 demo
//
// Prints one JSON line for each check, with what the client got, and exits 1 when one failed.
// What the model says is hardly judged; what the SDK makes of it is. The stream helper of the SDK
// is strict: it throws on an event it does not know, or for an item that was not announced.

import { createRequire } from "node:module";
import assert from "node:assert/strict";
import path from "node:path";

const [baseURL, model = "demo"] = process.argv.slice(2);
if (!baseURL) {
  console.error("Give the base URL: node js_stream.mjs http://127.0.0.1:8000/v1 [model]");
  process.exit(2);
}

// The packages are taken from the folder in which the script is started, not from its own.
const require = createRequire(path.join(process.cwd(), "here.js"));
const { OpenAI, NotFoundError, BadRequestError } = require("openai");
const { toResponseInputItems } = require("openai/lib/responses/ResponseInputItems");
const { zodTextFormat } = require("openai/helpers/zod");
const { z } = require("zod");

const client = new OpenAI({ baseURL, apiKey: "unused", maxRetries: 0, timeout: 120_000 });
const sum = { model, input: "What is 12 + 30?" };
const weather = {
  type: "function",
  name: "get_weather",
  description: "Get the current weather for a city.",
  strict: true,
  parameters: {
    type: "object",
    properties: { city: { type: "string", description: "The city, e.g. Paris." } },
    required: ["city"],
    additionalProperties: false,
  },
};
const askWeather = {
  model,
  input: "What is the weather in Paris?",
  tools: [weather],
  tool_choice: "required",
};
const Person = z.object({ name: z.string(), age: z.number().int() });
const askPerson = {
  model,
  input: "Anna is 30 years old. Fill in the name and the age.",
  text: { format: zodTextFormat(Person, "person") },
};

const items = (response, type) => response.output.filter((item) => item.type === type);
const textOf = (item) => (item.content ?? []).map((part) => part.text).join("");

function expectCompleted(response) {
  assert.equal(response.object, "response");
  assert.equal(response.status, "completed");
  assert.equal(response.error, null);
  assert.equal(response.incomplete_details, null);
  const { input_tokens, output_tokens, total_tokens } = response.usage;
  assert.ok(input_tokens > 0 && output_tokens > 0);
  assert.equal(total_tokens, input_tokens + output_tokens);
}

/** Every rule that holds for the events of any stream; returns its last event. */
function expectWellFormed(events) {
  assert.equal(events[0].type, "response.created");
  assert.deepEqual(events[0].response.output, []);
  const announced = [];
  events.forEach((event, n) => {
    assert.equal(event.sequence_number, n, `sequence_number of ${event.type}`);
    if (event.type === "response.output_item.added") {
      assert.equal(event.output_index, announced.length);
      announced.push(event.item.id);
    } else if (event.type === "response.output_item.done") {
      assert.equal(event.item.id, announced[event.output_index]);
    } else if (event.item_id !== undefined) {
      assert.equal(event.item_id, announced[event.output_index], `item_id of ${event.type}`);
    }
  });
  const last = events.at(-1);
  const ids = last.response.output.map((item) => item.id);
  assert.deepEqual(ids, announced);
  return last;
}

const joined = (events, type, index) =>
  events
    .filter((event) => event.type === type && event.output_index === index)
    .map((event) => event.delta)
    .join("");

/** The deltas of an item, put together, are what the item says in the end. */
function expectDeltas(events, response) {
  response.output.forEach((item, index) => {
    const [type, whole] = {
      message: ["response.output_text.delta", textOf(item)],
      reasoning: ["response.reasoning_text.delta", textOf(item)],
      function_call: ["response.function_call_arguments.delta", item.arguments],
      mcp_call: ["response.mcp_call_arguments.delta", item.arguments],
    }[item.type];
    assert.equal(joined(events, type, index), whole, `${type} of item ${index}`);
  });
}

async function streamed(request) {
  const events = [];
  const helper = client.responses.stream(request);
  for await (const event of helper) events.push(event);
  return { events, response: await helper.finalResponse() };
}

const kinds = (events) => [...new Set(events.map((event) => event.type))];

const checks = {
  async "create answers with a thought and a text"() {
    const response = await client.responses.create(sum);
    expectCompleted(response);
    assert.ok(response.output_text.length > 0);
    const [thought] = items(response, "reasoning");
    assert.ok(thought.content.every((part) => part.type === "reasoning_text" && part.text));
    assert.deepEqual(thought.summary, []);
    assert.ok(response.usage.output_tokens_details.reasoning_tokens > 0);
    return { text: response.output_text, thought: textOf(thought) };
  },

  async "the stream helper follows the whole answer"() {
    const { events, response } = await streamed(sum);
    const last = expectWellFormed(events);
    assert.equal(last.type, "response.completed");
    expectCompleted(response);
    expectDeltas(events, response);
    assert.equal(response.output[0].type, "reasoning");
    assert.equal(response.output.at(-1).type, "message");
    return { kinds: kinds(events), text: response.output_text };
  },

  async "a plain stream says the same as an answer in one piece"() {
    const request = { ...sum, temperature: 0 };
    const events = [];
    for await (const event of await client.responses.create({ ...request, stream: true })) {
      events.push(event);
    }
    const last = expectWellFormed(events);
    const whole = await client.responses.create(request);
    assert.deepEqual(
      last.response.output.map((item) => [item.type, textOf(item)]),
      whole.output.map((item) => [item.type, textOf(item)]),
    );
    assert.deepEqual(Object.keys(last.response).sort(), Object.keys(whole).filter((k) => k !== "output_text").sort());
    return { events: events.length };
  },

  async "parse returns an object of the schema"() {
    const response = await client.responses.parse(askPerson);
    expectCompleted(response);
    Person.parse(response.output_parsed);
    return { parsed: response.output_parsed };
  },

  async "the stream helper parses, too"() {
    const { events, response } = await streamed(askPerson);
    expectWellFormed(events);
    Person.parse(response.output_parsed);
    return { parsed: response.output_parsed };
  },

  async "a function is called and its result told, with the stored response"() {
    const first = await client.responses.create(askWeather);
    expectCompleted(first);
    const [call] = items(first, "function_call");
    assert.equal(call.name, "get_weather");
    assert.equal(typeof JSON.parse(call.arguments).city, "string");
    const second = await client.responses.create({
      model,
      tools: [weather],
      previous_response_id: first.id,
      input: [{ type: "function_call_output", call_id: call.call_id, output: "sunny, 21 degrees" }],
    });
    expectCompleted(second);
    assert.equal(second.previous_response_id, first.id);
    return { arguments: call.arguments, text: second.output_text };
  },

  async "a function is called and its result told, with nothing stored"() {
    const { events, response: first } = await streamed({ ...askWeather, store: false });
    expectWellFormed(events);
    expectDeltas(events, first);
    const [call] = items(first, "function_call");
    assert.equal(typeof call.parsed_arguments.city, "string");
    const { response: second } = await streamed({
      model,
      store: false,
      tools: [weather],
      // Everything the first answer held goes back, as the guides of the API say.
      input: [
        { role: "user", content: askWeather.input },
        ...toResponseInputItems(first.output),
        { type: "function_call_output", call_id: call.call_id, output: "sunny, 21 degrees" },
      ],
    });
    expectCompleted(second);
    return { kinds: kinds(events), text: second.output_text };
  },

  async "an answer that is cut off says so"() {
    const { events, response } = await streamed({ ...sum, max_output_tokens: 16, reasoning: { effort: "high" } });
    const last = expectWellFormed(events);
    assert.equal(last.type, "response.incomplete");
    assert.equal(response.status, "incomplete");
    assert.equal(response.incomplete_details.reason, "max_output_tokens");
    return { output: response.output.map((item) => [item.type, item.status ?? null]) };
  },

  async "a response is kept until it is deleted"() {
    const response = await client.responses.create(sum);
    const again = await client.responses.retrieve(response.id);
    assert.deepEqual(again.output, response.output);
    const inputs = await client.responses.inputItems.list(response.id);
    assert.equal(inputs.data.length, 1);
    assert.equal(inputs.data[0].role, "user");
    await client.responses.delete(response.id);
    await assert.rejects(client.responses.retrieve(response.id), NotFoundError);
    return { id: response.id };
  },

  async "a request with store false is not kept"() {
    const response = await client.responses.create({ ...sum, store: false });
    assert.equal(response.store, false);
    await assert.rejects(client.responses.retrieve(response.id), NotFoundError);
    return { id: response.id };
  },

  async "instructions and roles are accepted"() {
    const response = await client.responses.create({
      model,
      instructions: "You are a pirate.",
      reasoning: { effort: "low" },
      metadata: { purpose: "conformance" },
      input: [
        { role: "developer", content: "Be short." },
        { role: "user", content: [{ type: "input_text", text: "Hello" }] },
        { role: "assistant", content: "Hello! How can I help you?" },
        { role: "user", content: "Thanks" },
      ],
    });
    expectCompleted(response);
    assert.equal(response.instructions, "You are a pirate.");
    assert.equal(response.reasoning.effort, "low");
    assert.deepEqual(response.metadata, { purpose: "conformance" });
    return { text: response.output_text };
  },

  async "mistakes are told as errors of the SDK"() {
    const refused = async (request, kind) => {
      const error = await client.responses.create(request).then(
        () => assert.fail(`accepted: ${JSON.stringify(request)}`),
        (error) => error,
      );
      assert.ok(error instanceof kind, String(error));
      assert.ok(error.message.length > 10);
      return error.message;
    };
    return {
      model: await refused({ ...sum, model: "no-such-model" }, NotFoundError),
      temperature: await refused({ ...sum, temperature: -1 }, BadRequestError),
      previous: await refused({ ...sum, previous_response_id: "resp_none" }, Error),
      role: await refused({ model, input: [{ role: "wizard", content: "Hello" }] }, BadRequestError),
    };
  },

  async "a stream that is left does not harm the next one"() {
    const helper = client.responses.stream({ ...sum, reasoning: { effort: "high" } });
    for await (const event of helper) {
      if (event.type === "response.output_item.added") break;
    }
    helper.abort();
    const { response } = await streamed(sum);
    expectCompleted(response);
    return {};
  },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    console.log(JSON.stringify({ check: name, passed: true, got: await check() }));
  } catch (error) {
    failed += 1;
    console.log(JSON.stringify({ check: name, passed: false, error: error.stack?.slice(0, 900) ?? String(error) }));
  }
}
console.log(`${Object.keys(checks).length - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
