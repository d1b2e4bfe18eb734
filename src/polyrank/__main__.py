"""`polyrank` and `python -m polyrank`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        from polyrank.cli.app import run
    except KeyboardInterrupt:  # while it is imported
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
