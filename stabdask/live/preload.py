"""The preload of a scheduler that gives it the live page: ``dask scheduler --preload stabdask.live.preload``."""

from __future__ import annotations

import json
from typing import Any
from weakref import WeakKeyDictionary

from stabdask.clusters.dashboard import METADATA, PAGE
from stabdask.live.watch import Live

__all__ = ["dask_setup", "dask_teardown"]

_TICK_MS = 500
_installed: WeakKeyDictionary[Any, tuple[Live, Any]] = WeakKeyDictionary()


def dask_setup(scheduler: Any) -> None:
    """Add the live page to the dashboard of a scheduler; nothing where it serves no dashboard, or has the page.

    Called by Dask, on the event loop of the scheduler.
    """
    prefix = _dashboard_prefix(scheduler)
    if prefix is None or scheduler in _installed:
        return
    from distributed.dashboard.core import BokehApplication
    from tornado.ioloop import IOLoop, PeriodicCallback
    from tornado.web import Application

    from stabdask.live.page import live_document

    live = Live(scheduler)
    pages = _navigation(scheduler)
    document = BokehApplication(
        {f"/{PAGE}": lambda server, extra, doc: live_document(live, pages, doc)}, scheduler, prefix=prefix
    )
    scheduler.http_application.add_application(
        Application([(rf"{prefix}/{PAGE}/status", _json_handler(), {"live": live})])
    )
    scheduler.http_application.add_application(document)
    document.initialize(IOLoop.current())
    document.start()
    ticking = PeriodicCallback(live.tick, _TICK_MS)
    ticking.start()
    _installed[scheduler] = (live, ticking)
    # By this a client knows that there is a page.
    scheduler.set_metadata(keys=[METADATA, "page"], value=f"{prefix}/{PAGE}")


def dask_teardown(scheduler: Any) -> None:
    """Let the threads that look at stores end."""
    found = _installed.pop(scheduler, None)
    if found is not None:
        live, ticking = found
        ticking.stop()
        live.close()


def _dashboard_prefix(scheduler: Any) -> str | None:
    """Return what precedes the paths of Dask's dashboard, None if it is not served."""
    for application in getattr(getattr(scheduler, "http_application", None), "applications", ()):
        if hasattr(application, "app_paths"):  # Bokeh's
            return str(application.prefix).rstrip("/")
    return None


def _navigation(scheduler: Any) -> list[str]:
    """Put the page first in the bar of links of Dask's own pages, and return that bar."""
    from distributed.dashboard.scheduler import template_variables

    pages: list[str] = template_variables(scheduler)["pages"]
    if PAGE not in pages:
        pages.insert(0, PAGE)
    return pages


def _json_handler() -> type[Any]:
    from tornado.web import RequestHandler

    class Status(RequestHandler):
        """The numbers of the page as JSON; ``?run=TOKEN`` for a run that is not the newest."""

        def initialize(self, live: Live) -> None:
            self._live = live

        def set_default_headers(self) -> None:
            self.set_header("Content-Type", "application/json; charset=utf-8")
            self.set_header("Cache-Control", "no-store")
            self.set_header("X-Content-Type-Options", "nosniff")
            # A connection that is kept is answered even after the scheduler has ended, as long as its process lives.
            self.set_header("Connection", "close")

        def head(self) -> None:
            self.finish()

        def get(self) -> None:
            found = self._live.to_dict(self.get_query_argument("run", None))
            if found is None:
                self.set_status(404)
                found = {"error": "no run of that token"}
            self.finish(json.dumps(found, allow_nan=False))

    return Status
