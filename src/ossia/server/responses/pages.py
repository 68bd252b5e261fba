"""Lists of the API, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ossia.errors import InvalidRequest

JsonObject = dict[str, Any]
MAX_PAGE = 100


def check_page(limit: int, order: str) -> None:
    """Refuse what is no page.

    Raises:
        InvalidRequest: limit or order is out of range.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit must be between 1 and {MAX_PAGE}.", param="limit")
    if order not in ("asc", "desc"):
        raise InvalidRequest("order must be asc or desc.", param="order")


def page_of(
    items: Sequence[JsonObject], *, limit: int, order: str, after: str | None
) -> JsonObject:
    """A page of `items`, which are in ascending order; `after` is the id of an item.

    Raises:
        InvalidRequest: limit or order is out of range, or there is no such item.
    """
    check_page(limit, order)
    ordered = list(items) if order == "asc" else list(reversed(items))
    start = 0
    if after is not None:
        ids = [item["id"] for item in ordered]
        if after not in ids:
            raise InvalidRequest(f"There is no item {after[:80]!r} in this list.", param="after")
        start = ids.index(after) + 1
    return as_page(ordered[start : start + limit + 1], limit)


def as_page(found: Sequence[JsonObject], limit: int) -> JsonObject:
    """The list object of up to `limit` items; one more says that there are more."""
    data = list(found[:limit])
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(found) > limit,
    }
