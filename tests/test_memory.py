"""Freed memory: given back at once by a process that is all ours, and kept where it is asked for again and again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import numpy as np
from calib.memory import keep_freed, return_at_once

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.full(1 << 20, 1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

{first}
faults()
print(faults())
keep_freed()
faults()
print(faults())
"""
PAGES = 20 * (8 << 20) / 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not that of glibc")
def test_pages_are_asked_for_anew_until_freed_memory_is_kept() -> None:
    program = PROGRAM.format(first="return_at_once()")
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    at_once, kept = (int(line) for line in run.stdout.split())
    # huge pages make fewer faults of as much work
    assert at_once > 19
    assert kept < 0.2 * at_once
    assert at_once < 1.2 * PAGES


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not that of glibc")
def test_a_process_that_is_not_ours_is_left_alone() -> None:
    program = PROGRAM.format(first="import ctypes; ctypes.CDLL('libc.so.6').mallopt(-3, 1 << 20)")
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = (int(line) for line in run.stdout.split())
    assert after > 0.8 * before
