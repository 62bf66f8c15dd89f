"""Starting a Ray of our own, or joining one, and leaving no process behind.

A local Ray is a child of this process: the kernel ends it when we die, however that happens. It
uses random ports, a private temporary directory and its own token, so it meets no other Ray on the
machine, and stopping it never calls ``ray stop`` (which ends every Ray there is).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from actors.environment import NAMESPACE, STATE_LABEL, cluster_environment, own_token
from actors.front import front_environment
from qcluster.errors import InputError, NotReady

__all__ = ["running_ray"]

_PROBE_S = 5.0


@contextlib.contextmanager
def running_ray(address: str, state_dir: Path, temp: str) -> Iterator[None]:
    """Be connected to Ray while the block runs.

    Parameters
    ----------
    address: ``local`` starts one; ``auto`` joins the one on this machine; ``HOST:PORT`` joins
        that one. ``ray://`` is refused: Serve handles do not stream under Ray Client.
    state_dir: where the token of a local Ray lives.
    temp: directory for the files of a local Ray; the caller removes it.
    """
    if address.startswith("ray://"):
        raise InputError(
            "Ray Client is not supported, give the head's HOST:PORT", field="--address"
        )
    if address == "local":
        # Ray reads its variables once, when it is imported.
        os.environ.update(cluster_environment(own_token(state_dir)))
        os.environ.update(front_environment(Path(temp, "front")))
    import ray

    if address == "local":
        try:
            ray.init(
                namespace=NAMESPACE,
                labels={STATE_LABEL: "here"},
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=temp,
            )
            yield
        finally:
            ray.shutdown()
        return
    _probe(address)
    try:
        ray.init(
            address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR
        )
    except (ConnectionError, ValueError) as error:
        raise NotReady(f"no Ray at '{address}': {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _probe(address: str) -> None:
    """Raise NotReady when nobody listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # auto, or a name that Ray resolves
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_S).close()
    except (OSError, OverflowError) as error:
        raise NotReady(f"no Ray at '{address}': {error}") from None
