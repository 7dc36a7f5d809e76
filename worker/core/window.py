"""The events that were delivered last, so that a repeat delivered a moment ago is not delivered again."""

import hashlib
from collections import deque

from worker.core.events import Event

LARGEST = 1_000_000
"""The most events that a window may hold; it then takes about 140 MB."""


class Window:
    """The last `size` events that were delivered; empty where `size` is 0.

    It lives in one process and is gone with it. So it only saves deliveries:
    whoever must not act on a repeat goes by the payload's id.

    An event is known by its id together with its type and its subject (the
    call id or the agent's user): producers promise that no two events share
    an id, and where one breaks that, another call is still not taken for a
    repeat. What else an event says is not compared.
    """

    def __init__(self, size: int) -> None:
        """Begin empty. Each event takes the same room, however long its ids are."""
        self._size = size
        self._known: set[bytes] = set()
        self._order: deque[bytes] = deque()

    def __contains__(self, event: Event) -> bool:
        """Tell whether the event is among the last ones that were delivered."""
        return bool(self._known) and _mark(event) in self._known

    def add(self, event: Event) -> None:
        """Take in an event that was delivered; the oldest one leaves where there is no more room."""
        if not self._size or (mark := _mark(event)) in self._known:
            return
        if len(self._order) == self._size:
            self._known.remove(self._order.popleft())
        self._known.add(mark)
        self._order.append(mark)


def _mark(event: Event) -> bytes:
    """Give 16 bytes for an event. Neither a type nor an id holds a blank."""
    said = f"{event.type} {event.id} {event.subject}".encode(errors="surrogatepass")
    return hashlib.blake2b(said, digest_size=16).digest()
