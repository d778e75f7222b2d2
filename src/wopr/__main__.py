"""The entry of the command line."""

import sys

INTERRUPTED = 130


def main() -> None:
    """Run `wopr`."""
    try:
        import wopr.core.lean  # noqa: F401 - before anything that would load more
        from wopr.cli.root import run

        code = run()
    except KeyboardInterrupt:  # before or after what `run` itself watches
        code = INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    main()
