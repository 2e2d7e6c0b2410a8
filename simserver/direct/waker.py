"""Waking a thread that waits for sockets."""

from __future__ import annotations

import os
import threading


class Waker:
    """A file that can be read once another thread has something to say.

    Attributes:
        descriptor: to be waited for; only this class reads it.
    """

    def __init__(self) -> None:
        self.descriptor, self._write = os.pipe()
        self._lock = threading.Lock()
        self._is_set = self._closed = False

    def set(self) -> None:
        """Makes the file readable; from any thread, also when the waker is closed."""
        with self._lock:
            if not self._is_set and not self._closed:
                os.write(self._write, b"\0")
            self._is_set = True

    def clear(self) -> None:
        """Makes the file unreadable; look at what there is to be done only afterwards."""
        if self._is_set:
            with self._lock:
                self._is_set = False
                if not self._closed:
                    os.read(self.descriptor, 1)

    def close(self) -> None:
        """Frees the file. Again does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                # Their numbers may soon be another file's, so nobody may use them any more.
                os.close(self.descriptor)
                os.close(self._write)
