"""The logbook: pages rendered from the journal, each a pure function of it, so that they regenerate byte for byte."""

from wopr.ops.logbook.operations import Line, operations
from wopr.ops.logbook.pages import render

__all__ = ["Line", "operations", "render"]
