"""Stand-ins for outside companies that speak their real HTTP APIs, so that the whole business runs on one machine.

Only the command line and the tests import this package: production code knows addresses and keys, never a stand-in.
"""
