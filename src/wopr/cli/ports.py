"""Who holds a port that we need."""

import contextlib
import socket

PORT_MAX = 65_535


def holder_of_port(port: int, host: str = "127.0.0.1") -> str | None:
    """None when the port is free; else who holds it, as far as this user may know: ` by nginx (pid 12)` or nothing."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return _named_holder(port)
    return None


def _named_holder(port: int) -> str:
    import psutil

    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN
            if listens and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""
