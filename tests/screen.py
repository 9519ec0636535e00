"""A terminal's screen, as far as envkit's output needs one: what a person sees in the end of all that was written."""

import re

_PIECE = re.compile(r"\x1b\[(\?\d+[hl]|[\d;]*[A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


def screen(text):
    """Return the lines that are left on the screen, without empty ones at the end; fails for codes that it does not know."""
    lines, row, column, at = [""], 0, 0, 0
    while at < len(text):
        piece = _PIECE.match(text, at)
        assert piece, f"unknown control code: {text[at : at + 20]!r}"
        at = piece.end()
        code, motion, plain = piece.groups()
        if motion == "\r":
            column = 0
        elif motion == "\n":
            row, column = row + 1, 0  # as terminals are set: ONLCR
            lines += [""] * (row + 1 - len(lines))
        elif plain:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + plain + line[column + len(plain) :]
            column += len(plain)
        elif code[-1] == "A":
            row = max(0, row - int(code[:-1] or 1))
        elif code == "2K":
            lines[row] = ""
        else:
            assert code[-1] in "mhl", f"unknown control code {code!r}"
    while lines and not lines[-1].strip():
        lines.pop()
    return [line.rstrip() for line in lines]
