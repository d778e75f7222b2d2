"""Releases of the platform itself."""
