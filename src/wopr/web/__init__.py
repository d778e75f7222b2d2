"""The UI: server-rendered pages on top of the API. A client like any other: no database, no secret of its own."""

from wopr.web.app import begin_drain, build_web

__all__ = ["begin_drain", "build_web"]
