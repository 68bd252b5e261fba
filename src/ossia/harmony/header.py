"""What a message's header says: role, channel, recipient, content type.

    assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>

Models misspell headers, so this reads more than the format allows: the recipient in the role part
or the channel part or both, names glued together, parts doubled or missing. What cannot be part of
a header is text, and is handed back as such.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

Channel = Literal["analysis", "commentary", "final"]
CHANNELS: tuple[Channel, ...] = ("analysis", "commentary", "final")

_CONTENT_TYPES = ("json", "code", "text", "plain", "xml", "yaml", "markdown")
_ASSISTANTS = re.compile(r"(?:assistant)+")
_ROLES = ("user", "system", "developer", "tool")

# What models put behind a function's name without a break: functions.shelljson, functions.f:code.
_GLUED = re.compile(r"[\s:]*(?:<\|constrain\|>)?(?:json|code|commentary|analysis|final)+")

# Where a header stands: after the prompt's `<|start|>assistant`, after a `<|start|>` of the model's
# own (a role is due), or after the end of a message without any `<|start|>`.
Place = Literal["prompt", "start", "stray"]


@dataclass(slots=True)
class Section:
    """Header text after one marker: "" before any, "channel" or "constrain"."""

    marker: Literal["", "channel", "constrain"]
    text: str

    @property
    def spelled(self) -> str:
        return f"<|{self.marker}|>" if self.marker else ""


@dataclass(slots=True)
class Header:
    """A header that was read."""

    role: str = "assistant"
    channel: Channel | None = None
    recipient: str | None = None
    content_type: str | None = None
    text: str = ""  # what turned out to be content, not header
    written: str = ""  # the header, markers as their spelling
    words: list[str] = field(default_factory=list)  # not understood


def read_header(sections: list[Section], place: Place) -> Header:
    """Read a header that `<|message|>` has ended.

    Where openai_harmony's strict parser accepts a header and knows its channel, this says the same.
    Up to two words that are neither role nor channel nor `to=` name a recipient and a content type;
    more than that is text.
    """
    header = Header(written="".join(section.spelled + section.text for section in sections))
    for section in sections:
        words = section.text.split()
        if section.marker == "channel":
            _take_channel(header, words)
        elif section.marker == "constrain" and words:
            header.content_type = words.pop(0)
        elif section.marker == "" and words:
            _take_role(header, words, place)
        _take_words(header, words)
        if section.marker == "" and place == "stray" and header.words:
            # No header was due here, so these words were meant as text.
            header.text = " ".join(header.words) + " "
            header.words.clear()
    _settle(header)
    return header


def _take_role(header: Header, words: list[str], place: Place) -> None:
    assistants = _ASSISTANTS.match(words[0])
    if assistants is not None:
        glued = words[0][assistants.end() :]
        if not glued:
            words.pop(0)
            return
        if glued.startswith(("to=", *CHANNELS)):  # assistantfinal, assistantto=functions.f
            words[0] = glued
            return
    if place == "start" and not words[0].startswith("to="):
        header.role = words.pop(0)


def _take_channel(header: Header, words: list[str]) -> None:
    """The channel is the first word; what is glued to it is a word of its own."""
    if not words:
        return
    for channel in CHANNELS:
        if words[0].startswith(channel):
            header.channel = channel
            words[0] = words[0].removeprefix(channel)
            if not words[0]:
                words.pop(0)
            return
    if not words[0].startswith("to="):
        words.pop(0)  # a channel that does not exist


def _take_words(header: Header, words: list[str]) -> None:
    for index, word in enumerate(words):
        before, found, recipient = word.partition("to=")
        if found and before == "":
            header.recipient = recipient or (words[index + 1] if index + 1 < len(words) else None)
        elif index and words[index - 1] == "to=":
            continue
        elif word in CHANNELS and header.channel is None:
            header.channel = word
        else:
            header.words.append(word)


def _settle(header: Header) -> None:
    """Decide what the words are that nothing announced."""
    words = header.words
    named = header.recipient is not None
    if len(words) <= (1 if named else 2):
        typed = named or len(words) == 2 or (len(words) == 1 and words[0] in _CONTENT_TYPES)
        if words and typed and header.content_type is None:
            header.content_type = words.pop()
        if len(words) == 1 and not named:
            header.recipient = words.pop()
    if words and header.recipient is None:
        header.text += " ".join(words) + " "


_BEFORE_TEXT = {
    "": re.compile(
        rf"\s*(?:(?P<role>(?:assistant)+|(?:{'|'.join(_ROLES)})(?=\s|$)|functions\.\S+)"
        r"(?P<glued>analysis|commentary|final)?)?"
        r"(?P<to>\s*to=[^\s{\[(<]*)?"
    ),
    "channel": re.compile(
        rf"\s*(?P<channel>{'|'.join(CHANNELS)})?(?P<to>\s*to=[^\s{{\[(<]*)?"
        rf"(?P<type>\s*(?:{'|'.join(_CONTENT_TYPES)})(?=\s*(?:[{{\[]|$)))?"
    ),
    "constrain": re.compile(rf"\s*(?P<type>{'|'.join(_CONTENT_TYPES)})?"),
}


def read_unended_header(sections: list[Section], place: Place) -> Header:
    """Read a header that no `<|message|>` has ended: whatever is not plainly header is text."""
    header = Header()
    texts = []
    for section in sections:
        match = _BEFORE_TEXT[section.marker].match(section.text)
        assert match is not None  # every part of the patterns is optional
        found = match.groupdict()
        end = match.end()
        role = found.get("role")
        follows = section.text[end:].strip()
        if role and place != "start" and (follows or not _ASSISTANTS.fullmatch(role)):
            # No role was due here, so the word is one only if nothing but header follows.
            found, end, role = {}, 0, None
        if role and not role.startswith("assistant"):
            header.role = role
        for channel in CHANNELS:
            if channel in (found.get("channel"), found.get("glued")):
                header.channel = channel
        if found.get("to"):
            header.recipient = found["to"].strip().removeprefix("to=") or header.recipient
        if found.get("type"):
            header.content_type = found["type"].strip()
        header.written += section.spelled + section.text[:end]
        rest = section.text[end:]
        texts.append(rest.lstrip() if end else rest)
    header.text = "".join(texts)
    return header


def is_cut_off(header: Header) -> bool:
    """Whether the text of an unended header is only the beginning of more header."""
    text = header.text.strip()
    begun = ("to=", *CHANNELS) if header.channel is None else ("to=",)
    return any(name.startswith(text) for name in begun)


def function_name(recipient: str | None, declared: Collection[str]) -> str | None:
    """The declared function that a recipient means, or None.

    `functions.f`, `f` and names with a content type or channel glued on (`functions.fjson`) all
    mean f; an exact name goes first, then the longest.
    """
    if recipient is None:
        return None
    candidates = [recipient]
    while "." in candidates[-1] and candidates[-1].split(".")[0] in _NAMESPACES:
        candidates.append(candidates[-1].split(".", 1)[1])
    for candidate in candidates:
        if candidate in declared:
            return candidate
    for candidate in candidates:
        for name in sorted(declared, key=len, reverse=True):
            if name and candidate.startswith(name) and _GLUED.fullmatch(candidate[len(name) :]):
                return name
    return None


_NAMESPACES = ("functions", "function", "tools", "tool", "assistant")
