"""Finished pages by content: a tree of token pages, some with the window tail that ends there.

A node stands for one full page; the path from the root to it spells the tokens that led to its
keys. Children are looked up by their exact tokens, so two different contexts never meet in a page.
A tail is what the window layers need to go on after a node: the window pages just before it.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from ossia.engine.page_pool import PagePool


class Node:
    """A completed page of the full pool, reached from its parent by the tokens in it."""

    __slots__ = ("children", "key", "page", "parent", "tail")

    def __init__(self, parent: Node | None, key: bytes, page: int) -> None:
        self.parent = parent
        self.key = key  # the page's tokens, as int32 bytes
        self.page = page
        self.children: dict[bytes, Node] = {}
        self.tail: tuple[int, ...] | None = None  # window pages, oldest first


class PrefixCache:
    """The tree and its two least-recently-used orders, of idle nodes and of tails.

    A sequence uses all nodes on its path or none, and lets go of them deepest first. Therefore
    `_idle` (nodes without users) lists every node before its ancestors, and its first entry is
    always a leaf: evicting from the front is leaf first and least recently used at once.
    """

    def __init__(self, page_size: int, full: PagePool, window: PagePool) -> None:
        self.root = Node(None, b"", 0)
        self._page_size = page_size
        self._full = full
        self._window = window
        self._idle: OrderedDict[Node, None] = OrderedDict()
        self._tails: OrderedDict[Node, None] = OrderedDict()

    def keys(self, tokens: Sequence[int], first: int, end: int) -> Iterator[bytes]:
        """What names each of the pages first .. end - 1 of these tokens under its parent."""
        size = self._page_size
        words = array("i", tokens[first * size : end * size])
        data, stride = words.tobytes(), size * words.itemsize
        return (data[start : start + stride] for start in range(0, len(data), stride))

    def match(self, tokens: Sequence[int], max_pages: int) -> list[Node]:
        """The longest path of at most `max_pages` nodes that spells the start of `tokens`."""
        path: list[Node] = []
        children = self.root.children
        for key in self.keys(tokens, 0, max_pages):
            node = children.get(key)
            if node is None:
                break
            path.append(node)
            children = node.children
        return path

    def insert(self, parent: Node, key: bytes, page: int) -> Node | None:
        """Publish a completed page its sequence is using; None if its content is there already."""
        if key in parent.children:
            return None
        node = Node(parent, key, page)
        parent.children[key] = node
        self._full.add_keeper(page)
        return node

    def add_user(self, node: Node) -> None:
        """A sequence that uses all ancestors of `node` now uses it too."""
        self._full.add_user(node.page)
        self._idle.pop(node, None)

    def remove_user(self, node: Node) -> None:
        """A sequence stops using `node`; it did so for all deeper nodes before."""
        if self._full.remove_user(node.page):
            self._idle[node] = None

    def keep_tail(self, node: Node, pages: Sequence[int]) -> None:
        """Keep the window pages that end where `node` ends; the most recent tail from now on."""
        if node.tail is None:
            node.tail = tuple(pages)
            for page in node.tail:
                self._window.add_keeper(page)
        self.touch_tail(node)

    def touch_tail(self, node: Node) -> None:
        """Make this node's tail the last to be evicted."""
        self._tails[node] = None
        self._tails.move_to_end(node)

    def evict_page(self) -> bool:
        """Free the least recently used page of the full pool; False if sequences use them all."""
        if not self._idle:
            return False
        self._forget(next(iter(self._idle)))
        return True

    def evict_tail(self) -> bool:
        """Drop the least recently used tail; False if there is none."""
        if not self._tails:
            return False
        self._drop_tail(next(iter(self._tails)))
        return True

    def forget_unused(self, path: Sequence[Node]) -> None:
        """Remove the nodes at the end of `path` that nothing else uses or builds on."""
        for node in reversed(path):
            if node.children or node not in self._idle:
                return
            self._forget(node)

    def clear(self) -> None:
        """Remove all tails, and all nodes that no sequence uses."""
        while self.evict_tail():
            pass
        while self.evict_page():
            pass

    def nodes(self) -> Iterator[Node]:
        """Every node but the root, in no useful order."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def check_invariants(self) -> None:
        """Raise AssertionError if orders, tree and pools disagree."""
        nodes = list(self.nodes())
        full_keepers = [0] * (self._full.capacity + 1)
        window_keepers = [0] * (self._window.capacity + 1)
        for node in nodes:
            full_keepers[node.page] += 1
            assert full_keepers[node.page] == 1, f"full page {node.page} is in the tree twice"
            idle = not self._full.users[node.page]
            assert (node in self._idle) == idle, f"full page {node.page} misses in the idle order"
            assert (node in self._tails) == (node.tail is not None), "a tail misses in its order"
            for page in node.tail or ():
                window_keepers[page] += 1
        assert full_keepers == self._full.keepers, "keepers of full pages are off"
        assert window_keepers == self._window.keepers, "keepers of window pages are off"
        assert set(self._idle) | set(self._tails) <= set(nodes), "an order lists a removed node"
        seen: set[Node] = set()
        for node in self._idle:
            assert all(child in seen for child in node.children.values()), "idle order is off"
            seen.add(node)

    def _forget(self, node: Node) -> None:
        assert node.parent is not None
        del node.parent.children[node.key]
        del self._idle[node]
        if node.tail is not None:
            self._drop_tail(node)
        self._full.remove_keeper(node.page)

    def _drop_tail(self, node: Node) -> None:
        del self._tails[node]
        for page in node.tail or ():
            self._window.remove_keeper(page)
        node.tail = None
