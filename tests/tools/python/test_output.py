"""Of long output the two ends are kept, whatever the parts it comes in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ossia.tools.python.sandbox.output import KEPT, Output


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=7), st.integers(1, 9000)), max_size=20))
def test_nothing_is_lost_but_the_middle(parts: list[tuple[bytes, int]]) -> None:
    sent: list[str] = []
    output = Output(sent.append)
    data = [bytes(65 + byte % 26 for byte in text) * times for text, times in parts]
    for part in data:
        output.add(part)
    left_out, tail = output.finish()
    whole, head = b"".join(data).decode(), "".join(sent)
    assert left_out == max(0, len(whole) - KEPT)
    assert head == whole[: KEPT // 2]
    assert tail == (whole[-(KEPT // 2) :] if left_out else whole[KEPT // 2 :])


def test_the_beginning_is_passed_on_at_once() -> None:
    sent: list[str] = []
    Output(sent.append).add(b"abc")
    assert sent == ["abc"]


def test_a_letter_in_two_parts_is_one_letter() -> None:
    sent: list[str] = []
    output = Output(sent.append)
    for byte in "é".encode():
        output.add(bytes([byte]))
    assert sent == ["é"]


def test_bytes_that_are_no_text_are_marked() -> None:
    sent: list[str] = []
    output = Output(sent.append)
    output.add(b"a\xff\xc3")
    assert output.finish() == (0, "")
    assert "".join(sent) == "a��"
