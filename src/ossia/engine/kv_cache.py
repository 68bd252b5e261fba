"""Which pages of the two pools each sequence owns, and what is kept of them for later prompts.

Full-attention layers need the keys of the whole sequence; window layers those of the last
`sliding_window` positions. A sequence therefore has two page tables. In the full pool it grows to
the end; in the window pool it is the page being written and the `window_reach` pages before it:
    window_reach = ceil((sliding_window - 1) / page_size)
is how many pages before its own a query can see when it is the first of its page.

A cached prefix of length P, a multiple of the page size, can be continued where the full pages up
to P exist and the window tail was kept that ends at P: the `window_reach` pages before P. Where
full pages exist beyond the last tail, they are shared as well, and the tokens on them are computed
again only for the window layers.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ossia.engine.page_pool import PagePool
from ossia.engine.prefix_cache import Node, PrefixCache
from ossia.errors import ConfigError


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Sizes of the two pools. Page 0 of each is scratch and holds no sequence's keys."""

    page_size: int  # tokens
    num_full_pages: int  # page 0 included
    num_window_pages: int  # page 0 included
    sliding_window: int  # keys a token of a window layer sees, itself included
    enable_prefix_caching: bool = True
    tail_interval: int = 512  # tokens from one kept tail to the next, in whole pages

    @property
    def window_reach(self) -> int:
        """Pages before its own that the first query of a page can see."""
        return -(-(self.sliding_window - 1) // self.page_size)

    @property
    def window_pages_per_sequence(self) -> int:
        """The most window pages a sequence holds between steps."""
        return self.window_reach + 1


class SequencePages:
    """The page tables of one running sequence. Read by the runner, changed by `KVCache` alone.

    Position p has its keys in page full[p // page_size] of the full pool and in page
    window[p // page_size - window_start] of the window pool. `full` only ever grows at its end.
    Keys of positions below `full_write_start` are in shared pages already: their slots in the full
    pool must not be written (the scratch page 0 takes them).
    """

    __slots__ = (
        "duplicate",
        "full",
        "full_write_start",
        "nodes",
        "tail_points",
        "window",
        "window_start",
    )

    def __init__(self) -> None:
        self.full = array("i")
        self.window = array("i")
        self.window_start = 0  # page index, counted from the sequence's start
        self.full_write_start = 0  # position, a multiple of the page size
        self.nodes: list[Node] = []  # of the prefix cache, for the first pages of `full`
        self.duplicate = False  # another sequence published the page after `nodes` first
        self.tail_points: tuple[int, ...] = ()  # positions where a tail is to be kept


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """What the cache knows of a prompt."""

    nodes: list[Node]  # full pages that can be shared
    num_resumed: int  # of these pages, how many need no computation at all
    pages_wanted: int  # of the full pool, that no running sequence holds yet


class KVCache:
    """Gives pages to sequences and takes them back. Knows token ids, no requests, no tensors."""

    def __init__(self, config: CacheConfig) -> None:
        """
        Raises:
            ConfigError: the window pool cannot hold one sequence.
        """
        if config.num_window_pages - 1 < config.window_pages_per_sequence:
            raise ConfigError(
                f"The window pool has {config.num_window_pages} pages and needs at least "
                f"{config.window_pages_per_sequence + 1}; give the KV cache more memory."
            )
        self.config = config
        self.full = PagePool(config.num_full_pages)
        self.window = PagePool(config.num_window_pages)
        self.prefixes = PrefixCache(config.page_size, self.full, self.window)
        self._page_size = config.page_size
        self._reach = config.window_reach
        self._tail_pages = max(1, config.tail_interval // config.page_size)

    def pages_for(self, num_tokens: int) -> int:
        """Full pages that hold this many tokens."""
        return -(-num_tokens // self._page_size)

    def turn_boundary(self, prompt_len: int) -> int:
        """The last page boundary from which this prompt itself could be continued, as position.

        0 without prefix caching. The last token stays out: it has to be computed to go on.
        """
        if not self.config.enable_prefix_caching:
            return 0
        return (prompt_len - 1) // self._page_size * self._page_size

    def match(self, tokens: Sequence[int]) -> PrefixMatch:
        """Find the cached prefix of a sequence about to start. Its last token is left to compute.

        `tokens`: everything known of the sequence. Takes time in proportion to their number.
        """
        nodes: list[Node] = []
        if self.config.enable_prefix_caching:
            nodes = self.prefixes.match(tokens, (len(tokens) - 1) // self._page_size)
        resumed = len(nodes)
        while resumed and nodes[resumed - 1].tail is None:
            resumed -= 1
        held = sum(1 for node in nodes if self.full.users[node.page])
        return PrefixMatch(nodes, resumed, self.pages_for(len(tokens)) - held)

    def admits(self, match: PrefixMatch) -> bool:
        """Whether there are pages to start now: the full ones, and one to write in the window."""
        tail = match.nodes[match.num_resumed - 1].tail if match.num_resumed else ()
        idle = sum(1 for page in tail or () if not self.window.users[page])
        return match.pages_wanted <= self.full.available and idle < self.window.available

    def start(self, tokens: Sequence[int], match: PrefixMatch, turn_boundary: int) -> SequencePages:
        """Page tables for a sequence that `admits` let in, full pages for all its tokens included.

        The first position to compute is match.num_resumed * page_size. A tail will be kept at
        `turn_boundary`, and where the pages found in the cache end.
        """
        pages = SequencePages()
        pages.nodes = match.nodes
        pages.full_write_start = len(match.nodes) * self._page_size
        for node in match.nodes:
            self.prefixes.add_user(node)
            pages.full.append(node.page)
        pages.tail_points = (turn_boundary, pages.full_write_start)
        if match.num_resumed:
            last = match.nodes[match.num_resumed - 1]
            pages.window_start = self._window_start(match.num_resumed)
            for page in last.tail or ():
                self.window.add_user(page)
                pages.window.append(page)
            self.prefixes.touch_tail(last)
        for _ in range(self.pages_for(len(tokens)) - len(match.nodes)):
            pages.full.append(self._allocate_full())
        return pages

    def room(self, pages: SequencePages, position: int) -> int:
        """Tokens from `position` on whose window pages the sequence has or could get now."""
        owned = pages.window_start + len(pages.window)
        return (owned + self.window.available) * self._page_size - position

    def extend(self, pages: SequencePages, end: int) -> bool:
        """Own pages for all positions below `end`; False, and no change, if the full pool is used.

        The caller made sure, with `room`, that the window pool is not.
        """
        wanted = -(-end // self._page_size)
        missing = wanted - len(pages.full)
        if missing > self.full.available:
            return False
        for _ in range(missing):
            pages.full.append(self._allocate_full())
        for _ in range(wanted - pages.window_start - len(pages.window)):
            pages.window.append(self._allocate_window())
        return True

    def advance(self, pages: SequencePages, tokens: Sequence[int], start: int, end: int) -> None:
        """The keys at positions start .. end - 1 are in the pages now.

        Publishes completed pages, keeps the tails that are due and frees window pages that no
        query from the last page boundary on can see. Constant time unless a page was completed.
        """
        done = end // self._page_size
        if done == start // self._page_size:
            return
        if self.config.enable_prefix_caching:
            if not pages.duplicate:
                self._publish(pages, tokens, done)
            for boundary in self._tails_due(pages, start // self._page_size, done):
                self._keep_tail(pages, boundary)
        first = self._window_start(done)
        dropped = first - pages.window_start
        if dropped > 0:
            for page in pages.window[:dropped]:
                self.window.remove_user(page)
            del pages.window[:dropped]
            pages.window_start = first

    def trim(self, pages: SequencePages, num_computed: int) -> None:
        """Take back the window pages of a step that was not run."""
        keep = self.pages_for(num_computed) - pages.window_start
        for page in pages.window[keep:]:
            self.window.remove_user(page)
        del pages.window[keep:]

    def release(
        self, pages: SequencePages, tokens: Sequence[int], num_computed: int, *, keep: bool = True
    ) -> None:
        """Take all pages back; the tables stay readable for a step that is still under way.

        With `keep`, completed pages and the tail after the last of them stay cached. Without, what
        only this sequence used is forgotten, because its keys may be wrong.
        """
        done = num_computed // self._page_size
        if keep and self.config.enable_prefix_caching:
            self._publish(pages, tokens, done, merge=True)
            self._keep_tail(pages, done)
        published = len(pages.nodes)
        for page in reversed(pages.full[published:]):
            self.full.remove_user(page)
        for node in reversed(pages.nodes):
            self.prefixes.remove_user(node)
        for page in pages.window:
            self.window.remove_user(page)
        if not keep:
            self.prefixes.forget_unused(pages.nodes)

    def reset_prefix_cache(self) -> None:
        """Forget all cached prefixes that no running sequence uses."""
        self.prefixes.clear()

    def check_invariants(
        self, running: Collection[tuple[SequencePages, int]], *, between_steps: bool = True
    ) -> None:
        """Raise AssertionError unless every page is free, cached or owned, and all counts add up.

        `running`: the pages of every running sequence and how many of its tokens are computed. If
        not `between_steps`, it may hold window pages for those that steps under way compute.
        """
        full_users = [0] * self.config.num_full_pages
        window_users = [0] * self.config.num_window_pages
        for pages, num_computed in running:
            done = num_computed // self._page_size
            assert pages.window_start == self._window_start(done), "window pages freed too late"
            if between_steps:
                assert len(pages.window) <= self._reach + 1, "too many window pages"
            assert (pages.window_start + len(pages.window)) * self._page_size >= num_computed
            assert len(pages.full) * self._page_size >= num_computed
            for page in pages.full:
                full_users[page] += 1
            for page in pages.window:
                window_users[page] += 1
            for node, page in zip(pages.nodes, pages.full, strict=False):
                assert node.page == page, "a sequence uses another page than its node's"
        assert full_users == self.full.users, "users of full pages are off"
        assert window_users == self.window.users, "users of window pages are off"
        self.full.check_invariants()
        self.window.check_invariants()
        self.prefixes.check_invariants()

    def _window_start(self, done: int) -> int:
        """First page index still needed once `done` pages are completed."""
        return max(0, done - self._reach)

    def _publish(
        self, pages: SequencePages, tokens: Sequence[int], done: int, *, merge: bool = False
    ) -> None:
        """Put the first `done` pages into the prefix cache, as far as they are not in it yet.

        Where another sequence has published the same content meanwhile, this one stays private
        from there on, so that its page table does not change under a running step; `merge`, at the
        sequence's end, gives its own copy up for the published one and goes on.
        """
        nodes = pages.nodes
        parent = nodes[-1] if nodes else self.prefixes.root
        for key in self.prefixes.keys(tokens, len(nodes), done):
            page = pages.full[len(nodes)]
            node = self.prefixes.insert(parent, key, page)
            if node is None:
                if not merge:
                    pages.duplicate = True
                    return
                node = parent.children[key]
                self.prefixes.add_user(node)
                self.full.remove_user(page)
            nodes.append(node)
            parent = node

    def _tails_due(self, pages: SequencePages, before: int, done: int) -> list[int]:
        """Page boundaries after `before` and up to `done` at which a tail is to be kept."""
        interval = self._tail_pages
        due = list(range((before // interval + 1) * interval, done + 1, interval))
        for point in pages.tail_points:
            boundary = point // self._page_size
            if before < boundary <= done and boundary % interval:
                due.append(boundary)
        return due

    def _keep_tail(self, pages: SequencePages, boundary: int) -> None:
        """Keep the window pages that end at page boundary `boundary`, if its page is published."""
        if 0 < boundary <= len(pages.nodes):
            start = self._window_start(boundary) - pages.window_start
            tail = pages.window[start : boundary - pages.window_start]
            self.prefixes.keep_tail(pages.nodes[boundary - 1], tail)

    def _allocate_full(self) -> int:
        if not self.full.num_free:
            evicted = self.prefixes.evict_page()
            assert evicted, "a full page was promised and is not there"
        return self.full.allocate()

    def _allocate_window(self) -> int:
        while not self.window.num_free:
            evicted = self.prefixes.evict_tail()
            assert evicted, "a window page was promised and is not there"
        return self.window.allocate()
