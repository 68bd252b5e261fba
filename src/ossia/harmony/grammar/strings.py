"""Formats of strings, as regular expressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ossia.harmony.grammar.words import Unenforceable

_LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_YEAR = r"(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP = r"([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    rf"({_YEAR}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    rf"|02-(0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_TIME = (
    r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_ATOM = r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,64}"
_BYTE = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_GROUP = r"[0-9a-fA-F]{1,4}"
_DAYS = r"([0-9]{1,9}D|[0-9]{1,9}M([0-9]{1,9}D)?|[0-9]{1,9}Y([0-9]{1,9}M([0-9]{1,9}D)?)?)"
_HOURS = r"T([0-9]{1,9}S|[0-9]{1,9}M([0-9]{1,9}S)?|[0-9]{1,9}H([0-9]{1,9}M([0-9]{1,9}S)?)?)"
_SIGN = r"([a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9a-fA-F]{2})"
_IPV6 = "|".join(
    [
        rf"({_GROUP}:){{7}}{_GROUP}",
        rf"::({_GROUP}(:{_GROUP}){{0,6}})?",
        *(rf"({_GROUP}:){{{n}}}:({_GROUP}(:{_GROUP}){{0,{6 - n}}})?" for n in range(1, 7)),
        rf"({_GROUP}:){{7}}:",
    ]
)

# What is written in these formats is valid for any reader of them; not all that is valid is
# written: dates exist, seconds end at 59, names are not longer than the standards allow.
FORMATS: dict[str, str] = {
    "date-time": f"{_DATE}T{_TIME}",
    "date": _DATE,
    "time": _TIME,
    "duration": f"P({_DAYS}({_HOURS})?|{_HOURS}|[0-9]{{1,9}}W)",
    "email": rf"{_ATOM}(\.{_ATOM}){{0,4}}@{_LABEL}(\.{_LABEL}){{1,4}}",
    "hostname": rf"{_LABEL}(\.{_LABEL}){{0,9}}",
    "ipv4": rf"{_BYTE}(\.{_BYTE}){{3}}",
    "ipv6": _IPV6,
    "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "uri": rf"[a-zA-Z][a-zA-Z0-9+.-]*:(//{_LABEL}(\.{_LABEL}){{0,9}}(:[0-9]{{1,4}})?(/{_SIGN}*)*"
    rf"|/?{_SIGN}+(/{_SIGN}*)*)(\?({_SIGN}|[/?])*)?(#({_SIGN}|[/?])*)?",
}
_MAX_LENGTH = {"hostname": 253, "email": 254}
# Formats of OpenAPI that demand nothing of a string, or are bounds of numbers.
_NO_DEMAND = ("password",)
_OF_NUMBERS = ("int32", "int64", "float", "double")


def string_formats(raw: Mapping[str, Any], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Schemas to join to one that has a `format`.

    Raises:
        Unenforceable: a format that is not known here.
    """
    if "format" not in raw:
        return []
    name = raw["format"]
    if name in _OF_NUMBERS and ("number" in kinds or "integer" in kinds):
        return []
    if name in _NO_DEMAND or "string" not in kinds:
        return []
    if not isinstance(name, str) or name not in FORMATS:
        known = ", ".join(sorted(FORMATS))
        raise Unenforceable("format", f"is {name!r}; the formats that can be enforced are {known}")
    bound = {"maxLength": _MAX_LENGTH[name]} if name in _MAX_LENGTH else {}
    return [{"pattern": f"^({FORMATS[name]})$"} | bound]
