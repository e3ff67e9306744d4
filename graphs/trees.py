"""Stars across every cut of a spanning tree, exactly, in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]


@njit(cache=True)
def subtree_ends(parent: Array) -> Array:
    """Where the subtree of each node ends, in preorder: node v heads ``v:end[v]``. The root's parent is itself."""
    n = parent.size
    end = np.arange(1, n + 1)
    for v in range(n - 1, 0, -1):
        end[parent[v]] = max(end[parent[v]], end[v])
    return end


@njit(cache=True)
def ancestor_table(parent: Array) -> Array:
    """Ancestors 1, 2, 4, ... generations up: (levels, n) int32."""
    n = parent.size
    levels = 1
    while (1 << levels) < n:
        levels += 1
    up = np.empty((levels, n), np.int32)
    up[0] = parent
    for level in range(1, levels):
        for v in range(n):
            up[level, v] = up[level - 1, up[level - 1, v]]
    return up


@njit(cache=True)
def common_ancestor(up: Array, end: Array, low: int, high: int) -> int:
    """Lowest common ancestor of two nodes in preorder, low <= high."""
    if high < end[low]:
        return low
    v = low
    for level in range(up.shape[0] - 1, -1, -1):
        if high >= end[up[level, v]]:
            v = up[level, v]
    return int(up[0, v])


@njit(cache=True)
def stars_across(parent: Array, star_ptr: Array, node: Array) -> Array:
    """Stars measured on both sides of the tree edge above each node: (n,) int64, 0 for the root.

    A star lies across an edge if the edge is in the smallest subtree that joins the star's nodes. With these sorted in
    preorder, count +1 at each, -1 at the common ancestor of each and the next and -1 at that of all; the sum over the
    subtree below an edge is then 1 if the star lies across it, else 0.

    Parameters
    ----------
    parent : (n,) int32
        Parent of each node, nodes numbered in preorder.
    star_ptr, node
        Star s has the nodes ``node[star_ptr[s]:star_ptr[s + 1]]``.
    """
    end = subtree_ends(parent)
    up = ancestor_table(parent)
    count = np.zeros(parent.size, np.int64)
    for s in range(star_ptr.size - 1):
        mine = np.sort(node[star_ptr[s] : star_ptr[s + 1]])
        if mine.size < 2:
            continue
        for i in range(mine.size):
            count[mine[i]] += 1
            if i > 0:
                count[common_ancestor(up, end, mine[i - 1], mine[i])] -= 1
        count[common_ancestor(up, end, mine[0], mine[-1])] -= 1
    for v in range(parent.size - 1, 0, -1):
        count[parent[v]] += count[v]
    count[0] = 0
    return count
