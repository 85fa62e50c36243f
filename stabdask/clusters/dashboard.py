"""Where the dashboard of a cluster is, and how to reach it from another host."""

from __future__ import annotations

import getpass
import os
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from stabdask.clusters.security import is_loopback

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "METADATA",
    "PAGE",
    "PRELOAD",
    "dashboard_address",
    "dashboard_text",
    "dashboard_url",
    "free_port",
    "note_dashboard",
    "page_settings",
]

METADATA = "stabdask"
"""Key of what this package keeps in the metadata of a scheduler."""
PAGE = "stabdask"
"""Last part of the address of the live page."""
PRELOAD = "stabdask.live.preload"
"""Module that a scheduler loads at its start to have the live page."""
_PORT = 8787
_REMOTE = ("SSH_CONNECTION", "SLURM_JOB_ID")
"""Variables of processes that were started from another host."""


def dashboard_address(wanted: bool) -> str:
    """Return where a new scheduler is to serve over HTTP: on loopback, at port 8787 if that is free.

    It serves something in any case: without a dashboard, at a port that nobody else wants.
    """
    return f"127.0.0.1:{free_port(_PORT) if wanted else 0}"


def page_settings(wanted: bool) -> dict[str, Any]:
    """Return the settings of Dask with which a scheduler started in this process has the live page.

    What the configuration of the user preloads stays.
    """
    if not wanted:
        return {}
    import dask

    setting = "distributed.scheduler.preload"
    found = dask.config.get(setting, None) or []
    others = [found] if isinstance(found, str) else list(found)
    return {setting: [*others, *([] if PRELOAD in others else [PRELOAD])]}


def note_dashboard(client: Client, wanted: bool) -> None:
    """Note whether a cluster that was started has a dashboard: Dask gives a link in any case."""
    client.set_metadata([METADATA, "dashboard"], wanted)


def dashboard_url(client: Client) -> str | None:
    """Return the address of the dashboard of a client's cluster, or None if it has none.

    That of the live page where the scheduler has it, else that of Dask's own first page.
    """
    link = getattr(client, "dashboard_link", None)
    if not link or ":0/" in str(link) or not client.get_metadata([METADATA, "dashboard"], True):
        return None
    # Of a scheduler in this process Dask tells the host of its own address, which the dashboard may not listen at.
    server = getattr(getattr(getattr(client, "cluster", None), "scheduler", None), "http_server", None)
    if server is not None and is_loopback(str(getattr(server, "address", ""))):
        link = f"http://{server.address}:{server.port}/status"
    if not client.get_metadata([METADATA, "page"], None):
        return str(link)
    return f"{str(link).removesuffix('/status')}/{PAGE}"


def dashboard_text(client: Client) -> str | None:
    """Return the address, and on a host that one is not sitting at the command that makes a tunnel to it."""
    url = dashboard_url(client)
    if url is None:
        return None
    parts = urlsplit(url)
    own = " (Dask's own: /status)" if parts.path.endswith(f"/{PAGE}") else ""
    if not is_loopback(parts.hostname or "") or not any(name in os.environ for name in _REMOTE):
        return url + own
    return (
        f"{url}{own}; from elsewhere: ssh -L {_PORT}:127.0.0.1:{parts.port} "
        f"{getpass.getuser()}@{socket.gethostname()}, then http://127.0.0.1:{_PORT}{parts.path}"
    )


def free_port(wanted: int) -> int:
    """Return `wanted` if nothing listens there on loopback, else 0 (any)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return 0
    return wanted
