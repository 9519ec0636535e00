"""Owns several commands at once whose lines are told apart: each begins with the name of its command."""

import selectors
import subprocess
import sys

_PIECE = 65536


def run(commands):
    """Run the commands {name: argv} to their ends; return the first exit code that is not 0 in their order, or 0.

    They end with this process, however it ends.
    """
    argv = ["setpriv", "--pdeathsig", "TERM", "--"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    running = {}
    try:
        for name, words in commands.items():
            running[name] = subprocess.Popen([*argv, *words], **pipes)
        _copy({process.stdout: f"{name}| ".encode() for name, process in running.items()})
        codes = {name: process.wait() for name, process in running.items()}
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
            process.stdout.close()
    return next((code for code in codes.values() if code), 0)


def _copy(prefixes):
    """Copy whole lines of the streams, with their prefixes, until all have ended."""
    rest = dict.fromkeys(prefixes, b"")
    with selectors.DefaultSelector() as selector:
        for stream in prefixes:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                stream = key.fileobj
                data = stream.read1(_PIECE)
                if not data:
                    selector.unregister(stream)
                *lines, rest[stream] = (rest[stream] + (data or b"\n" * bool(rest[stream]))).split(b"\n")
                sys.stdout.buffer.writelines(prefixes[stream] + line + b"\n" for line in lines)
                sys.stdout.buffer.flush()
