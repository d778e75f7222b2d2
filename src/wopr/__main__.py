"""The entry of the command line."""

import sys


def main() -> None:
    """Run `wopr`."""
    from wopr.cli.root import run

    sys.exit(run())


if __name__ == "__main__":
    main()
