"""The pages of one pool: which are free, used by sequences, or kept by the prefix cache."""

from __future__ import annotations


class PagePool:
    """Hands out page numbers 1 .. num_pages - 1 and counts who holds each.

    Page 0 is never handed out: it is scratch space for padding and for keys that nobody will read.
    A page has users (sequences that read or write it) and keepers (entries of the prefix cache);
    it is free when it has neither. Only an exclusive page, one user and no keeper, may be written.
    """

    def __init__(self, num_pages: int) -> None:
        self.capacity = num_pages - 1  # pages that can be handed out
        self.in_use = 0  # pages with at least one user
        self.users = [0] * num_pages
        self.keepers = [0] * num_pages
        self._free = list(range(num_pages - 1, 0, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def available(self) -> int:
        """Pages that sequences could still get if the cache gave up all that only it holds."""
        return self.capacity - self.in_use

    @property
    def num_cached(self) -> int:
        """Pages that only the prefix cache holds."""
        return self.capacity - self.in_use - len(self._free)

    def allocate(self) -> int:
        """A free page, now with one user. The caller made sure that one is free."""
        page = self._free.pop()
        self.users[page] = 1
        self.in_use += 1
        return page

    def add_user(self, page: int) -> None:
        """One more sequence uses a page that is not free."""
        if self.users[page] == 0:
            self.in_use += 1
        self.users[page] += 1

    def remove_user(self, page: int) -> bool:
        """One sequence fewer; True if it was the last."""
        self.users[page] -= 1
        if self.users[page]:
            return False
        self.in_use -= 1
        if not self.keepers[page]:
            self._free.append(page)
        return True

    def add_keeper(self, page: int) -> None:
        """One more entry of the prefix cache holds this page, which is not free."""
        self.keepers[page] += 1

    def remove_keeper(self, page: int) -> None:
        """One entry of the prefix cache fewer."""
        self.keepers[page] -= 1
        if not self.keepers[page] and not self.users[page]:
            self._free.append(page)

    def check_invariants(self) -> None:
        """Raise AssertionError if a page is lost, free twice or free while held."""
        free = set(self._free)
        assert len(free) == len(self._free), "a page is free twice"
        assert 0 not in free, "the scratch page was freed"
        assert not self.users[0], "the scratch page is used"
        assert not self.keepers[0], "the scratch page is kept"
        for page in range(1, self.capacity + 1):
            users, keepers = self.users[page], self.keepers[page]
            assert users >= 0, f"page {page} was released too often"
            assert keepers >= 0, f"page {page} was dropped too often"
            assert (page in free) == (not users and not keepers), f"page {page} is lost or misused"
        assert self.in_use == sum(1 for users in self.users if users), "in_use is off"
