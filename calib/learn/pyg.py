"""What is used of PyTorch Geometric, imported without the deprecation warnings that its own import of torch raises."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch_geometric.data import HeteroData
    from torch_geometric.nn import MessagePassing

__all__ = ["HeteroData", "MessagePassing"]
