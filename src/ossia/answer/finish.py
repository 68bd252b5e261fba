"""Why a turn ended, derived in one place from what the engine said and what was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ossia.engine.messages import PhaseCut
from ossia.harmony.parser import Channel

TurnFinish = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class FinishDetails:
    """What there is to say about an ending beyond its reason."""

    type: Literal["max_tokens", "loop", "reasoning_cut"]
    message: str  # a sentence for whoever reads the answer
    channel: Channel | None = None  # of the first two: where it stopped; None: before any text
    reason: PhaseCut | None = None  # of reasoning_cut

    def body(self) -> dict[str, Any]:
        """The object of the wire formats."""
        cut = self.type == "reasoning_cut"
        own = {"reason": self.reason} if cut else {"channel": self.channel}
        return {"type": self.type, **own, "message": self.message}


def finish(
    engine_reason: str,
    *,
    stopped: bool = False,
    calls: int = 0,
    channel: Channel | None = None,
    cut: PhaseCut | None = None,
) -> tuple[TurnFinish, FinishDetails | None]:
    """The finish reason of a turn and its details.

    Args:
        engine_reason: "stop", "length" or "loop", of the last chunk.
        stopped: a stop string ended the visible text.
        calls: how many functions the turn calls.
        channel: of the last message that began.
        cut: why the engine ended the reasoning, if it did.
    """
    if engine_reason == "length" and not stopped:
        return "length", FinishDetails("max_tokens", _RAN_OUT[channel], channel=channel)
    if engine_reason == "loop" and not stopped:
        return "length", FinishDetails("loop", _ENDLESS, channel=channel)
    reason: TurnFinish = "tool_calls" if calls and not stopped else "stop"
    return reason, None if cut is None else _reasoning_cut(cut)


def _reasoning_cut(cut: PhaseCut) -> FinishDetails:
    return FinishDetails("reasoning_cut", _CUT[cut], reason=cut)


_RAN_OUT: dict[Channel | None, str] = {
    None: "The token limit was reached before the first message; allow more tokens.",
    "analysis": "The token limit was reached inside the reasoning, before an answer; allow more "
    "tokens, lower reasoning_effort, or set max_reasoning_tokens below the limit.",
    "commentary": "The token limit was reached inside a tool call or what leads up to one; allow "
    "more tokens.",
    "final": "The token limit was reached inside the answer; allow more tokens.",
}
_ENDLESS = (
    "The answer repeated the same words without end and was stopped; try again, ask in other "
    "words, or use another temperature."
)
_CUT: dict[PhaseCut, str] = {
    "max_tokens": "The reasoning reached max_reasoning_tokens and was ended; the answer was "
    "written from what there was.",
    "loop": "The reasoning repeated itself and was ended; the answer was written from what there "
    "was.",
}
