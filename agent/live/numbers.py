"""Numbers that have been used."""

from __future__ import annotations


class Numbers:
    """A set that takes no room for numbers that follow one another.

    >>> used = Numbers()
    >>> for number in (7, 9, 8, 11):
    ...     used.add(number)
    >>> 8 in used, 10 in used
    (True, False)
    """

    def __init__(self) -> None:
        #: All from the first up to, but without, the last; and single ones elsewhere.
        self._first = self._last = 0
        self._others: set[int] = set()

    def __contains__(self, number: int) -> bool:
        return self._first <= number < self._last or number in self._others

    def add(self, number: int) -> None:
        if self._first == self._last:
            self._first = self._last = number
        if number != self._last:
            if number not in self:
                self._others.add(number)
            return
        self._last += 1
        while self._last in self._others:
            self._others.remove(self._last)
            self._last += 1
