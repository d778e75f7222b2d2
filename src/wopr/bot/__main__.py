"""The program: `python -m wopr.bot`, configured by the environment alone."""

import os
import sys

from wopr.bot import footprint
from wopr.bot.settings import SettingsError, load_settings

WRONG_USAGE = 2


def main() -> int:
    """Runs until it is told to stop; returns the exit code."""
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return WRONG_USAGE
    footprint.share_one_heap()
    footprint.leave_out_tls(settings.gateway_url)
    from wopr.bot.app import run  # after TLS is left out: asyncio and aiohttp look for it when they are imported

    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
