"""Owns what the image server complains about: lines with a time on its standard error, which is `images.log`."""

import sys
import threading
import time

_REPEATS_AFTER = 10.0
_lock = threading.Lock()
_last: dict[str, float] = {}


def complain(text: str) -> None:
    """Write a line; the same one not more often than every ten seconds."""
    now = time.monotonic()
    with _lock:
        if now - _last.get(text, -_REPEATS_AFTER) < _REPEATS_AFTER:
            return
        if len(_last) > 1000:
            _last.clear()
        _last[text] = now
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sys.stderr.write(f"{stamp} {text}\n")
    sys.stderr.flush()
