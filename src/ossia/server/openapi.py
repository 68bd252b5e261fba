"""The OpenAPI description, and a page that shows it without loading anything from elsewhere."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from ossia.server.body import RequestModel

_REF = "#/components/schemas/{model}"


def takes(model: type[RequestModel]) -> dict[str, Any]:
    """For `openapi_extra` of a route: its body is a `model`."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe_with(app: FastAPI, models: list[type[RequestModel]], version: str) -> None:
    """Make `app.openapi()` know the bodies that routes name with `takes`."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            described = get_openapi(title=app.title, version=version, routes=app.routes)
            _, schemas = models_json_schema(
                [(model, "validation") for model in models], ref_template=_REF
            )
            components = described.setdefault("components", {}).setdefault("schemas", {})
            components.update(schemas["$defs"])
            app.openapi_schema = described
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


DOCS_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Ossia API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1b1f; background: #fff; }
h2 { font-size: 1.1rem; margin: 2rem 0 .25rem; }
code, pre { font: .875rem/1.5 ui-monospace, monospace; }
.method { display: inline-block; min-width: 3.5rem; font-weight: 700; color: #0b5cad; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
td { border-top: 1px solid #ddd; padding: .3rem .6rem .3rem 0; vertical-align: top; }
td:nth-child(2) { color: #555; white-space: nowrap; }
details { margin: .25rem 0 .25rem 1rem; }
summary { cursor: pointer; }
@media (prefers-color-scheme: dark) {
  body { color: #e6e6ea; background: #16161a; } td { border-color: #333; }
  td:nth-child(2) { color: #aaa; } .method { color: #7cb8ff; } a { color: #7cb8ff; }
}
</style></head><body>
<h1>Ossia API</h1>
<p>Compatible with OpenAI's API. Machine-readable: <a href="openapi.json">openapi.json</a>.</p>
<main id="paths">Loading ...</main>
<script>
"use strict";
const add = (parent, tag, text) => {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  parent.append(element);
  return element;
};
const typeName = (s) => {
  if (s.$ref) return s.$ref.split("/").pop();
  if (s.anyOf) return s.anyOf.filter((t) => t.type !== "null").map(typeName).join(" or ");
  if (s.enum) return s.enum.map((v) => JSON.stringify(v)).join(" | ");
  if (s.type === "array") return "list of " + typeName(s.items || {});
  return s.type || "any";
};
const references = (s) => {
  if (s.$ref) return [s.$ref.split("/").pop()];
  return (s.anyOf || (s.items ? [s.items] : [])).flatMap(references);
};
const showFields = (parent, schemas, name, seen) => {
  const schema = schemas[name];
  const table = add(parent, "table");
  const inner = new Set();
  for (const [field, s] of Object.entries(schema.properties || {})) {
    const row = add(table, "tr");
    add(add(row, "td"), "code", field + ((schema.required || []).includes(field) ? " *" : ""));
    add(row, "td", typeName(s));
    add(row, "td", s.description || "");
    references(s).forEach((r) => inner.add(r));
  }
  for (const r of inner) {
    if (seen.includes(r) || !(schemas[r] || {}).properties) continue;
    const details = add(parent, "details");
    add(details, "summary", r + ": " + (schemas[r].description || ""));
    showFields(details, schemas, r, [...seen, r]);
  }
};
fetch("openapi.json").then((answer) => answer.json()).then((api) => {
  const main = document.getElementById("paths");
  main.textContent = "";
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, route] of Object.entries(methods)) {
      const title = add(main, "h2");
      add(title, "span", method.toUpperCase()).className = "method";
      add(title, "code", path);
      add(main, "div", route.description || route.summary);
      const schema = route.requestBody?.content?.["application/json"]?.schema;
      const names = schema ? references(schema) : [];
      names.forEach((r) => showFields(main, api.components.schemas, r, [r]));
    }
  }
}).catch((error) => { document.getElementById("paths").textContent = String(error); });
</script></body></html>
"""
