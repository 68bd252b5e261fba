"""The keywords of one JSON schema, written anew in the words that llguidance keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NoReturn, Protocol, TypeVar

from ossia.harmony.grammar.disjoint import disjoint
from ossia.harmony.grammar.numbers import numeric_keywords
from ossia.harmony.grammar.objects import closes, object_counts
from ossia.harmony.grammar.patterns import rust_pattern
from ossia.harmony.grammar.strings import string_formats
from ossia.harmony.grammar.words import IN_PLACE, TYPES, Unenforceable, is_count, is_number

MAX_ITEMS = 5_000  # for minItems and maxItems
MAX_PROPERTIES = 2_000  # of one object; llguidance's time grows with the square
MAX_PATTERNS = 16  # patternProperties of one object
MAX_ALTERNATIVES = 64  # of oneOf

Node = dict[str, Any]
_T = TypeVar("_T")


class Reader(Protocol):
    """What reads the schemas inside of the one at hand."""

    def read(
        self, raw: object, path: str, depth: int, chain: int, alone: bool, parent: int | None
    ) -> Node | bool:
        """The schema `raw`, written anew."""

    def reference(
        self, target: object, path: str, chain: int, alone: bool, parent: int
    ) -> str | None:
        """The name under which the target of a `$ref` is defined."""

    def resolve(self, target: object) -> object:
        """The user's schema that a reference names; None if there is none."""

    def attempt(self, path: str, make: Callable[[], _T]) -> _T | None:
        """What `make` returns; None where it is `Unenforceable` and may be left out."""

    def values(self, values: list[Any], path: str) -> None:
        """Count the values of an enum."""

    def join_multiple(self, value: float) -> bool:
        """Note a multipleOf that may be joined with others; Unenforceable if it cannot be."""


class SchemaWriter:
    """Writes the keywords of one schema."""

    def __init__(
        self,
        reader: Reader,
        raw: Mapping[str, Any],
        path: str,
        depth: int,
        chain: int,
        alone: bool,
        place: int,
    ) -> None:
        self._reader = reader
        self._raw = raw
        self._path = path
        self._depth = depth
        self._chain = chain
        self._place = place
        self._alone = alone
        others = [key for key in raw if key in IN_PLACE]
        # A single reference or `allOf` of one, with nothing beside it, is that schema itself.
        self._others_alone = (
            alone and len(others) == 1 and not any(key in raw for key in _CONSTRAINTS)
        )
        self._parts_alone = alone and not others

    def write(self, node: Node) -> None:
        """Fill `node`."""
        raw = self._raw
        types = self._types()
        if types is not None:
            node["type"] = types[0] if len(types) == 1 else types
        for keyword in raw:
            if keyword in IN_PLACE:
                self._in_place(node, keyword)
            elif keyword == "properties":
                self._properties(node)
            elif keyword in ("items", "prefixItems", "additionalItems"):
                self._items(node)
            elif keyword in _WRITERS:
                _WRITERS[keyword](self, node, keyword)
        self._finish_object(node)
        kinds = types if types is not None else list(TYPES)
        node |= self._attempt(lambda: numeric_keywords(raw, kinds, self._parts_alone)) or {}
        joined = "multipleOf" in node and not self._parts_alone
        if joined and not self._attempt(lambda: self._reader.join_multiple(node["multipleOf"])):
            del node["multipleOf"]
        for pattern in self._attempt(lambda: string_formats(raw, kinds)) or ():
            node.setdefault("allOf", []).append(pattern)

    def _attempt(self, make: Callable[[], _T]) -> _T | None:
        return self._reader.attempt(self._path, make)

    def _fail(self, keyword: str, sentence: str) -> None:
        def fail() -> NoReturn:
            raise Unenforceable(keyword, sentence)

        self._attempt(fail)

    def _read(self, raw: object, *steps: object, alone: bool = True) -> Node | bool:
        path = ".".join([self._path, *map(str, steps)])
        return self._reader.read(raw, path, self._depth + 1, self._chain + 1, alone, self._place)

    def _types(self) -> list[str] | None:
        """The types that are allowed; None: all."""
        raw = self._raw
        if "type" not in raw:
            objects = any(key in raw for key in ("properties", "required", "additionalProperties"))
            # Whoever lists properties wants an object, though the keywords alone let all else pass.
            return ["object"] if objects and self._parts_alone and not _values(raw) else None
        given = raw["type"] if isinstance(raw["type"], list) else [raw["type"]]
        unknown = [kind for kind in given if kind not in TYPES]
        if unknown or not given:
            allowed = ", ".join(TYPES)
            self._fail("type", f"must be one of {allowed}, or a list of them")
            return None
        return list(dict.fromkeys(given))

    def _in_place(self, node: Node, keyword: str) -> None:
        raw = self._raw[keyword]
        if keyword == "$ref":
            path = f"{self._path}.$ref"
            name = self._reader.reference(raw, path, self._chain, self._others_alone, self._place)
            if name is not None:
                node["$ref"] = f"#/$defs/{name}"
            return
        if not isinstance(raw, list) or not raw:
            self._fail(keyword, "must be a list of at least one JSON schema")
            return
        alone = self._others_alone and (keyword != "allOf" or len(raw) == 1)
        written = [self._read(part, keyword, i, alone=alone) for i, part in enumerate(raw)]
        if keyword == "oneOf":
            self._check_one_of(raw)
            keyword = "anyOf"
            if "anyOf" in self._raw:
                node.setdefault("allOf", []).append({"anyOf": written})
                return
        node[keyword] = [*node.get(keyword, []), *written]

    def _check_one_of(self, options: list[Any]) -> None:
        """Alternatives of which never two hold are the same under `anyOf`."""
        if len(options) > MAX_ALTERNATIVES:
            self._fail("oneOf", f"has more than {MAX_ALTERNATIVES} alternatives; use anyOf")
            return
        for index, one in enumerate(options):
            for other in options[index + 1 :]:
                if not disjoint(self._typed(one), self._typed(other), self._reader.resolve):
                    self._fail(
                        "oneOf",
                        "has alternatives that may hold at the same time, which cannot be "
                        "enforced; use anyOf, or give each a required property with another const",
                    )
                    return

    def _typed(self, option: object) -> object:
        """An alternative with the type that stands beside it."""
        if isinstance(option, Mapping) and "type" in self._raw and "type" not in option:
            return {**option, "type": self._raw["type"]}
        return option

    def _properties(self, node: Node) -> None:
        properties = self._raw["properties"]
        if not isinstance(properties, Mapping):
            self._fail("properties", "must be an object of JSON schemas")
            return
        if len(properties) > MAX_PROPERTIES:
            self._fail("properties", f"has more than {MAX_PROPERTIES} names")
            return
        node["properties"] = {
            name: self._read(schema, "properties", name, alone=self._parts_alone)
            for name, schema in properties.items()
        }

    def _patterns(self, node: Node, keyword: str) -> None:
        patterns = self._raw[keyword]
        if not isinstance(patterns, Mapping) or len(patterns) > MAX_PATTERNS:
            self._fail(keyword, f"must be an object of at most {MAX_PATTERNS} JSON schemas")
            return
        written = {}
        for pattern, schema in patterns.items():
            rust = self._attempt(lambda p=pattern: rust_pattern(p, keyword))  # type: ignore[misc]
            if rust is not None:
                written[rust] = self._read(schema, keyword, pattern, alone=self._parts_alone)
        if written:
            node[keyword] = written

    def _schema(self, node: Node, keyword: str) -> None:
        node[keyword] = self._read(self._raw[keyword], keyword, alone=self._parts_alone)

    def _required(self, node: Node, keyword: str) -> None:
        names = self._raw[keyword]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self._fail(keyword, "must be a list of property names")
            return
        if names:
            node[keyword] = list(dict.fromkeys(names))

    def _finish_object(self, node: Node) -> None:
        if self._alone and closes(self._raw, node):
            for name in node.get("required", []):
                node["properties"].setdefault(name, True)
            node["additionalProperties"] = False
        counts = self._attempt(lambda: object_counts(self._raw, node, self._alone))
        node |= counts or {}

    def _items(self, node: Node) -> None:
        """`items` and `prefixItems`; and how they were called before, a list and the rest."""
        if "items" in node or "prefixItems" in node:
            return
        items, prefix = self._raw.get("items"), self._raw.get("prefixItems")
        names = ("items", "prefixItems")
        if isinstance(items, list):
            items, prefix = self._raw.get("additionalItems"), items
            names = ("additionalItems", "items")
        if prefix is not None:
            if not isinstance(prefix, list):
                self._fail("prefixItems", "must be a list of JSON schemas")
                return
            node["prefixItems"] = [
                self._read(part, names[1], i, alone=self._parts_alone)
                for i, part in enumerate(prefix)
            ]
        if items is not None:
            node["items"] = self._read(items, names[0], alone=self._parts_alone)

    def _count(self, node: Node, keyword: str) -> None:
        """minItems, maxItems, minLength, maxLength."""
        value = self._raw[keyword]
        if not is_count(value):
            self._fail(keyword, "must be a whole number, 0 or more")
        elif keyword in ("minItems", "maxItems") and value > MAX_ITEMS:
            self._fail(keyword, f"is over {MAX_ITEMS}, the most that can be enforced")
        else:
            node[keyword] = min(int(value), 1 << 31)

    def _pattern(self, node: Node, keyword: str) -> None:
        pattern = self._attempt(lambda: rust_pattern(self._raw[keyword], keyword))
        if pattern is not None:
            node[keyword] = pattern

    def _literal(self, node: Node, keyword: str) -> None:
        """enum and const."""
        given = self._raw[keyword]
        values = [given] if keyword == "const" else given
        if not isinstance(values, list) or not values:
            self._fail(keyword, "must be a list of at least one value")
            return
        self._reader.values(values, self._path)
        for value in values:
            fault = _unwritable(value)
            if fault:
                self._fail(keyword, fault)
                return
        node[keyword] = given


_CONSTRAINTS = (
    *("type", "enum", "const", "properties", "required", "additionalProperties"),
    *("patternProperties", "minProperties", "maxProperties", "items", "prefixItems"),
    *("additionalItems", "minItems", "maxItems", "minLength", "maxLength", "pattern", "format"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
)
_WRITERS: dict[str, Callable[[SchemaWriter, Node, str], None]] = {
    "enum": SchemaWriter._literal,
    "const": SchemaWriter._literal,
    "required": SchemaWriter._required,
    "additionalProperties": SchemaWriter._schema,
    "patternProperties": SchemaWriter._patterns,
    "minItems": SchemaWriter._count,
    "maxItems": SchemaWriter._count,
    "minLength": SchemaWriter._count,
    "maxLength": SchemaWriter._count,
    "pattern": SchemaWriter._pattern,
}


def _values(raw: Mapping[str, Any]) -> bool:
    return "enum" in raw or "const" in raw


def _unwritable(value: object) -> str | None:
    """Why this value cannot be written exactly; None if it can."""
    if isinstance(value, str):
        if any(c == "\x7f" or (c < " " and c not in "\b\f\n\r\t") for c in value):
            return "has a control character that cannot be written"
        if any("\ud800" <= c <= "\udfff" for c in value):
            return "has half of a surrogate pair, which no text can hold"
    elif is_number(value):
        if abs(value) > 2**53:
            return "has a number beyond 2^53, which JSON readers round; use a string"
        number = Decimal(repr(value)).normalize()
        if (
            len(number.as_tuple().digits) > (16 if isinstance(value, int) else 15)
            or number.adjusted() < -20
        ):
            return "has a number with more digits than can be kept; use at most 15"
    elif isinstance(value, Mapping):
        return next(filter(None, map(_unwritable, [*value, *value.values()])), None)
    elif isinstance(value, list):
        return next(filter(None, map(_unwritable, value)), None)
    return None
