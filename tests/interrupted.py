"""The command line, sent a signal at a line of Python of envkit's: `interrupted.py LINE SIGNAL FROM NOTE COMMAND...`

Lines count from the first call of a function named FROM ("main" for all of them). At its end it writes to the file NOTE
how many lines there were, or where it was when the signal came.
"""

import os
import signal
import sys

from envkit import __main__ as command_line

_PACKAGE = os.path.dirname(command_line.__file__)


class Tracer:
    """Counts lines of the package, and of the context managers that it uses."""

    def __init__(self, line, number, beginning, note):
        self._line = line
        self._number = number
        self._beginning = beginning
        self._note = note
        self._count = 0
        self._began = False

    def call(self, frame, _event, _argument):
        code = frame.f_code
        if not code.co_filename.startswith(_PACKAGE) and not code.co_filename.endswith("/contextlib.py"):
            return None
        if not self._began:
            if code.co_name != self._beginning:
                return None
            self._began = True
            caller = frame.f_back
            while caller is not None:  # what is under way already is looked at from now on, too
                caller.f_trace = self._trace
                caller = caller.f_back
        return self._trace

    def _trace(self, frame, event, _argument):
        self._count += event == "line"
        if self._count == self._line:
            sys.settrace(None)
            self._write(f"{frame.f_code.co_filename}:{frame.f_lineno}")
            signal.raise_signal(self._number)
        return self._trace

    def end(self):
        if self._count < self._line or not self._line:
            self._write(str(self._count))

    def _write(self, text):
        with open(self._note, "w", encoding="utf-8") as file:
            file.write(text)


def _main(line, number, beginning, note, *command):
    tracer = Tracer(int(line), int(number), beginning, note)
    leave = os._exit

    def exit_traced(code):
        sys.settrace(None)
        tracer.end()
        leave(code)

    os._exit = exit_traced
    sys.argv = ["envkit", *command]
    sys.settrace(tracer.call)
    command_line.main()


if __name__ == "__main__":
    _main(*sys.argv[1:])
