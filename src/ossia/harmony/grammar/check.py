"""Whether a grammar compiles and can begin; and if not, what to say or to leave out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ossia.errors import InvalidRequest
from ossia.harmony.grammar.faults import explain, find_fault
from ossia.harmony.grammar.finite import can_end
from ossia.harmony.grammar.formats import ANY_OBJECT, Part
from ossia.harmony.grammar.schema import OPTIONS, PreparedSchema, prepare_schema
from ossia.harmony.grammar.text import join_grammars
from ossia.harmony.ll_tokenizer import parser_limits

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_REPAIRS = 8  # places left out of one schema that is not strict
LARGE = 300  # schemas within one; smaller ones cannot run into limits at their first tokens


class GrammarChecker:
    """Asks llguidance. Safe to use from many threads."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer

    def error(self, grammar: str) -> str:
        """Why the grammar cannot be used, from compiling to the first mask; "" if it can."""
        matcher = self._matcher(grammar)
        if not matcher.is_error():
            matcher.compute_bitmask()
        return matcher.get_error()

    def _matcher(self, grammar: str) -> LLMatcher:
        from llguidance import LLMatcher

        return LLMatcher(self._tokenizer, grammar, log_level=0, limits=parser_limits())

    def needs_a_trial(self, part: Part) -> bool:
        """Whether more than compiling has to be tried before the part may be used."""
        if part.schema is None:
            return True
        return len(part.schema.places) > LARGE or not can_end(part.schema.document)

    def settle(self, part: Part) -> bool:
        """Make sure that the part can be used; whether it had to be changed for that.

        A schema that is not strict loses what fails.

        Raises:
            InvalidRequest: it cannot be used; says where and why.
        """
        if part.schema is None:
            self._settle_rules(part)
            return False
        changed = False
        for _ in range(MAX_REPAIRS):
            reason = self._reason(part.schema.document)
            if not reason:
                return changed
            if not part.schema.strict and not changed:
                changed = True
                if self._drop_bad_patterns(part.schema):
                    continue
            fault = find_fault(part.schema, self._reason, reason)
            if part.schema.strict:
                raise InvalidRequest(
                    f"`{fault.path}` {fault.sentence}.", param=fault.path, code="unsupported_schema"
                )
            if fault.index == 0 and fault.keyword is None:
                break
            node = part.schema.places[fault.index].node
            if fault.keyword is None:
                node.clear()
            else:
                del node[fault.keyword]
        part.schema = prepare_schema(ANY_OBJECT, path=part.path, strict=True)
        return True

    def _drop_bad_patterns(self, schema: PreparedSchema) -> bool:
        """Leave out patterns that cannot be enforced, which fail most often and in many places."""
        before = len(str(schema.document))
        usable: dict[str, bool] = {}
        for place in schema.places:
            pattern = place.node.get("pattern")
            if pattern is None:
                continue
            if pattern not in usable:
                usable[pattern] = not self._reason({"type": "string", "pattern": pattern})
            if not usable[pattern]:
                del place.node["pattern"]
        return len(str(schema.document)) < before

    def _settle_rules(self, part: Part) -> None:
        grammar = join_grammars("start: @inner\n", [{"name": "inner", "lark_grammar": part.lark}])
        reason = self._trial(grammar)
        if reason:
            raise InvalidRequest(
                f"`{part.path}` {explain(reason)}.", param=part.path, code="unsupported_grammar"
            )

    def _reason(self, schema: dict[str, object]) -> str:
        """Why the schema cannot be used by itself; "" if it can."""
        if not can_end(schema):
            return "Unsatisfiable: it refers to itself and never ends"
        part = {"json_schema": schema | {"x-guidance": OPTIONS}}
        return self._trial(join_grammars("start: @inner\n", [{"name": "inner", **part}]))

    def _trial(self, grammar: str) -> str:
        """Why nothing can be written at the start, or after the bracket that opens it."""
        matcher = self._matcher(grammar)
        if matcher.is_error():
            return matcher.get_error()
        for opening in (b"", b'{"', b"["):
            trial = matcher.deep_copy()
            tokens = self._tokenizer.tokenize_bytes(opening)
            if opening and trial.try_consume_tokens(tokens) < len(tokens):
                if trial.is_error():
                    return trial.get_error()
                continue
            mask = trial.compute_bitmask()
            if trial.is_error():
                return trial.get_error()
            if not opening and not any(mask) and not trial.is_accepting():
                return "Unsatisfiable: no text matches it"
        return ""
