"""Freed memory given back to the system, where the allocators would keep it for later."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


@cache
def _trim() -> Any:
    """The malloc_trim of glibc, or None elsewhere."""
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None


MMAP_THRESHOLD, AT_ONCE = -3, 1 << 20
"""Parameter of glibc's mallopt, and the size in bytes from which blocks are mapped for themselves."""


def return_at_once() -> None:
    """Have large blocks go back to the system as they are freed; for a process that is all ours.

    Left to itself glibc keeps blocks of up to 32 MB on its heap, and what a factor frees piece by piece leaves holes
    that nothing else fits in.
    """
    try:
        ctypes.CDLL("libc.so.6").mallopt(MMAP_THRESHOLD, AT_ONCE)
    except (OSError, AttributeError):
        return


def give_back() -> None:
    """Return what was freed to the system: a process is charged with all that its allocators hold.

    After a stage that freed hundreds of megabytes in pieces, glibc keeps them, and what comes next is put on top.
    """
    arrow = sys.modules.get("pyarrow")
    if arrow is not None:
        arrow.default_memory_pool().release_unused()
    trim = _trim()
    if trim is not None:
        trim(0)
