"""`polyrank` and `python -m polyrank`."""

from __future__ import annotations

from polyrank.cli.app import run

__all__ = ["main"]


def main() -> None:
    """Run the command line and end the process with its exit code."""
    run()


if __name__ == "__main__":
    main()
