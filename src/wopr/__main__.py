"""The entry of the command line."""

import sys


def main() -> None:
    """Run `wopr`."""
    import wopr.core.lean  # noqa: F401 - before anything that would load more
    from wopr.cli.root import run

    sys.exit(run())


if __name__ == "__main__":
    main()
