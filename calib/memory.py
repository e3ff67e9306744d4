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


MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Parameters of glibc's mallopt."""
AT_ONCE, LATER = 1 << 20, 1 << 30
"""Sizes in bytes from which blocks are mapped for themselves, or the heap's end is given back."""
MOST = 32 << 20
_ours: list[bool] = []


def return_at_once() -> None:
    """Have large blocks go back to the system as they are freed; for a process that is all ours.

    Left to itself glibc keeps blocks of up to 32 MB on its heap, and what a factor frees piece by piece leaves holes
    that nothing else fits in.
    """
    _ours[:] = [True]
    _set({MMAP_THRESHOLD: AT_ONCE})


def keep_freed() -> None:
    """Undo `return_at_once`, for a survey of which memory is no concern; nothing in a process that is not all ours.

    The system clears every page that it gives: a fifth of the time of a solve whose fronts are mapped anew each time.
    """
    if _ours:
        _set({MMAP_THRESHOLD: LATER, TRIM_THRESHOLD: LATER})


def _set(values: dict[int, int]) -> None:
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in values.items():
        if not mallopt(parameter, value):  # older ones take no more than this
            mallopt(parameter, min(value, MOST))


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
