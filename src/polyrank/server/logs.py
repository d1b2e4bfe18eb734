"""A log line is a JSON object on stderr. Texts are in it only where the settings ask for them."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from typing import Any

__all__ = ["JsonLines", "start_logging"]

_OWN = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message", "taskName"}


class JsonLines(logging.Formatter):
    """`{"time", "level", "event", ...}`, with whatever `extra` a call gave."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        row: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _OWN},
        }
        if record.exc_info:
            row["traceback"] = self.formatException(record.exc_info)
        return json.dumps(row, default=str)


def start_logging(level: str) -> None:
    """Send the lines of all parts of a server, and of threads that die, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("polyrank", "uvicorn", "asyncio", "opentelemetry"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
    threading.excepthook = _tell_of_thread
    if level == "info":  # what uvicorn says of its own start and end, we say ourselves
        logging.getLogger("uvicorn").setLevel("WARNING")


def _tell_of_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        why = (args.exc_type, args.exc_value, args.exc_traceback)
        logging.getLogger(__name__).error("a thread ended", exc_info=why)
