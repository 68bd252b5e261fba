"""A user's JSON schema becomes one that can be enforced, or the place at fault is named.

llguidance takes most of JSON schema, trusts the schema to be well formed, and is silent about some
of what it cannot keep. So every node is read here and written anew in the words that it keeps:

- `strict`: what cannot be enforced is refused, with its path. What is written validates.
- otherwise: what cannot be enforced is left out.

The language may become smaller, never larger: an object that lists its properties and says nothing
about others gets no others, whole numbers stay below 9e18, and other bounds of the same kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote

from ossia.errors import InvalidRequest
from ossia.harmony.grammar.keywords import Node, SchemaWriter
from ossia.harmony.grammar.numbers import can_be_joined
from ossia.harmony.grammar.rewrite import rewrite
from ossia.harmony.grammar.words import Unenforceable

MAX_BYTES = 1 << 20  # of the schema as JSON
MAX_DEPTH = 64  # of the schema as it was written
MAX_CHAIN = 128  # of schemas within schemas, references followed
MAX_NODES = 20_000  # schemas, and values of enum
HOIST_EVERY = 16  # levels after which a schema moves to $defs, so that the JSON nests less

# How JSON may be written. Whitespace stands at most once at each place, so a model cannot pad for
# ever. Escapes of ordinary characters are left out: they would let a model write one name in two
# ways, and so the same property twice.
OPTIONS = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,40}", "json_allowed_escapes": 'nrbtf\\"'}

_T = TypeVar("_T")


@dataclass(slots=True)
class Place:
    """A schema that was written, and where it stands in the user's."""

    path: str
    node: Node  # may be changed: it is part of the document
    parent: int | None  # index of the place around it


@dataclass(slots=True)
class PreparedSchema:
    """A schema in the words that llguidance keeps."""

    document: Node
    strict: bool
    path: str  # of the user's schema in the request
    places: list[Place] = field(default_factory=list)  # the root first

    def grammar(self) -> Node:
        """As a part of a grammar."""
        return {"json_schema": self.document | {"x-guidance": OPTIONS}}


def prepare_schema(schema: object, *, path: str, strict: bool) -> PreparedSchema:
    """Read a schema of the user's; `path` is where it stands in the request.

    Raises:
        InvalidRequest: the schema is over the limits; or, with `strict`, something in it cannot be
            enforced.
    """
    check_size(schema, path)
    reader = _Reader(schema, path, strict)
    root = reader.read(schema, path, 0, 0, True, None)
    document: Node = {**root} if isinstance(root, dict) else {"anyOf": [root]}
    if reader.definitions:
        document["$defs"] = reader.definitions
    if isinstance(root, dict):
        reader.places[0].node = document
    else:
        reader.places.append(Place(path, document, None))
    return PreparedSchema(document, strict, path, reader.places)


def check_size(value: object, path: str) -> None:
    """Raise InvalidRequest if this is no JSON, too deep, or too long."""
    pending = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        if depth > 3 * MAX_DEPTH:
            raise InvalidRequest(
                f"The schema at `{path}` nests deeper than {MAX_DEPTH} levels; make it flatter.",
                param=path,
            )
        if isinstance(item, Mapping):
            pending += [(part, depth + 1) for part in item.values()]
        elif isinstance(item, list):
            pending += [(part, depth + 1) for part in item]
    try:
        size = len(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"The schema at `{path}` is not JSON.", param=path) from error
    if size > MAX_BYTES:
        raise InvalidRequest(
            f"The schema at `{path}` has {size} bytes; at most {MAX_BYTES} are allowed.", param=path
        )


class _Reader:
    """Reads one schema. `alone` nodes hold for a value by themselves, so they may be narrowed;
    the others are joined with more schemas, where a smaller one could leave nothing."""

    def __init__(self, root: object, path: str, strict: bool) -> None:
        self._root = root
        self._path = path
        self._strict = strict
        self._count = 0
        self._multiples: list[float] = []  # of schemas that are joined with others
        self._names: dict[tuple[str, bool], str] = {}  # (pointer, alone) -> name in definitions
        self.definitions: Node = {}
        self.places: list[Place] = []

    def read(
        self, raw: object, path: str, depth: int, chain: int, alone: bool, parent: int | None
    ) -> Node | bool:
        """The schema `raw`, written anew. `depth` counts levels, `chain` also across references."""
        self._tally(path, depth, chain)
        if isinstance(raw, bool):
            return raw
        if not isinstance(raw, Mapping):
            self._refuse(path, "must be a JSON schema: an object, true or false")
            return True
        node: Node = {}
        place = len(self.places)
        self.places.append(Place(path, node, parent))
        try:
            raw = rewrite(raw, self.resolve)
        except Unenforceable as error:
            raw = self._without(raw, path, error)
        SchemaWriter(self, raw, path, depth, chain, alone, place).write(node)
        if depth and depth % HOIST_EVERY == 0:
            name = f"n{place}"
            self.definitions[name] = node
            return {"$ref": f"#/$defs/{name}"}
        return node

    def _tally(self, path: str, depth: int, chain: int, nodes: int = 1) -> None:
        self._count += nodes
        if self._count > MAX_NODES:
            raise InvalidRequest(
                f"The schema at `{self._path}` has more than {MAX_NODES} parts; make it smaller.",
                param=self._path,
            )
        if depth > MAX_DEPTH or chain > MAX_CHAIN:
            raise InvalidRequest(
                f"The schema at `{path}` nests deeper than {MAX_DEPTH} levels "
                f"({MAX_CHAIN} with references followed); make it flatter.",
                param=path,
            )

    def _without(self, raw: Mapping[str, Any], path: str, error: Unenforceable) -> Node:
        """`raw` less what cannot be enforced, in a schema that is not strict."""
        rest: Node = dict(raw)
        while True:
            self._refuse(f"{path}.{error.keyword}", error.sentence)
            del rest[error.keyword]
            try:
                return dict(rewrite(rest, self.resolve))
            except Unenforceable as another:
                error = another

    def values(self, values: list[Any], path: str) -> None:
        """Count the values of an enum as nodes."""
        self._tally(path, 0, 0, len(values))

    def join_multiple(self, value: float) -> bool:
        """Note a multipleOf that may be joined with those before it. True.

        Raises:
            Unenforceable: the two cannot be joined.
        """
        if not can_be_joined([*self._multiples, value]):
            raise Unenforceable("multipleOf", "has too many digits beside another multipleOf")
        self._multiples.append(value)
        return True

    def attempt(self, path: str, make: Callable[[], _T]) -> _T | None:
        """What `make` returns; None, where the schema is not strict, if it cannot be enforced."""
        try:
            return make()
        except Unenforceable as error:
            self._refuse(f"{path}.{error.keyword}", error.sentence)
            return None

    def _refuse(self, path: str, sentence: str) -> None:
        if self._strict:
            raise InvalidRequest(f"`{path}` {sentence}.", param=path, code="unsupported_schema")

    def reference(
        self, target: object, path: str, chain: int, alone: bool, parent: int
    ) -> str | None:
        """The name under which the target of a `$ref` is defined here."""
        if not isinstance(target, str) or not target.startswith("#"):
            self._refuse(path, "refers to another document; put the schema under $defs")
            return None
        if (target, alone) not in self._names:
            found, raw = self._lookup(target)
            if not found:
                self._refuse(path, f"refers to {target!r}, which is not in this schema")
                return None
            name = f"d{len(self._names)}"
            self._names[target, alone] = name
            where = ".".join([self._path, *filter(None, _steps(target))])
            self.definitions[name] = True  # keeps its place; it may be referred to meanwhile
            self.definitions[name] = self.read(raw, where, 1, chain + 1, alone, parent)
        return self._names[target, alone]

    def resolve(self, target: object) -> object:
        """The user's schema that a reference names; None if there is none."""
        if not isinstance(target, str) or not target.startswith("#"):
            return None
        return self._lookup(target)[1]

    def _lookup(self, target: str) -> tuple[bool, object]:
        raw: object = self._root
        for step in _steps(target):
            if isinstance(raw, Mapping) and step in raw:
                raw = raw[step]
            elif isinstance(raw, list) and step.isascii() and step.isdigit() and len(step) < 9:
                if int(step) >= len(raw):
                    return False, None
                raw = raw[int(step)]
            else:
                return False, None
        return isinstance(raw, Mapping | bool), raw


def _steps(target: str) -> list[str]:
    """The steps of a JSON pointer in a fragment, `#/$defs/a`; an anchor is one odd step."""
    steps = unquote(target[1:]).split("/")
    if steps[0]:
        return [steps[0] + "/"]
    return [step.replace("~1", "/").replace("~0", "~") for step in steps[1:]]
