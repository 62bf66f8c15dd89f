"""A running server from Python: every route, typed, and patient while parts of it restart.

    with Client("http://127.0.0.1:8000") as cluster:
        plan = cluster.latest("energy").plan

``transport`` sends and repeats, ``client`` names the routes, ``results`` gives answers their types.
Needs httpx; imports neither Ray nor torch, and a domain only when its first answer is typed.
"""

from __future__ import annotations

from qcluster.client.client import Client
from qcluster.client.results import ServerEvent, StoredPlan

__all__ = ["Client", "ServerEvent", "StoredPlan"]
