"""Which ranks share an NVLink domain, so that as few bytes as possible cross between domains."""

from __future__ import annotations

from qcluster.q_nvlink.partition.search import Partition, partition_ranks

__all__ = ["Partition", "partition_ranks"]
