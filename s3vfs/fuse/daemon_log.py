"""The daemon's log: one JSON object a line, with the fields that a message carries in `extra`.

Nothing secret may be logged anywhere; nothing here filters it.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import logging.handlers
import os
import time
from pathlib import Path

from s3vfs.errors import MountError

# The default log is rotated at this size, and this many old ones are kept: a log may not fill the cache disk. A
# --log-file is the user's: it is left to logrotate, whose renaming is noticed.
ROTATE_BYTES = 16 << 20
ROTATED_FILES = 2

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """time (UTC, ISO 8601), level, logger, message, pid, then the record's own fields; `trace` for an exception."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, object] = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in fields:
                fields[name] = value
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=_printable)


def _late_reply(record: logging.LogRecord) -> bool:
    """The device answers ENOENT to a reply that nobody waits for any more: interrupted, or unmounted meanwhile. That is
    no error of ours or anybody's; pyfuse3 calls it one."""
    if "fuse_reply_* failed with No such file" in record.getMessage():
        record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
    return True


def _printable(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)


def start_logging(path: Path, *, chosen: bool, verbose: bool, console: bool) -> None:
    """Send all logging to `path`. `chosen`: the user named it. `console`: warnings also go to stderr, as text."""
    handlers: list[logging.Handler] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if chosen:
            handlers.append(logging.handlers.WatchedFileHandler(path))
        else:
            handlers.append(
                logging.handlers.RotatingFileHandler(path, maxBytes=ROTATE_BYTES, backupCount=ROTATED_FILES)
            )
    except OSError as error:
        raise MountError(
            f"the log {path} cannot be written: {error.strerror}", hint="name another --log-file"
        ) from None
    handlers[0].setFormatter(JsonLines())
    crashes = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    faulthandler.enable(crashes)  # stays open: where the stacks go when C code crashes
    if console:
        shown = logging.StreamHandler()
        shown.setLevel(logging.INFO if verbose else logging.WARNING)
        shown.setFormatter(logging.Formatter("s3vfs: %(levelname)s: %(message)s"))
        handlers.append(shown)
    logging.getLogger("pyfuse3").addFilter(_late_reply)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    if verbose:
        logging.getLogger("s3vfs").setLevel(logging.DEBUG)
    for handler in handlers:
        root.addHandler(handler)
