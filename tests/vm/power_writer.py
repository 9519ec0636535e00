"""Runs inside a guest, until its power goes: saves an environment again and again, and says so once it is done.

    power_writer.py ENV DIRECTORY COMMAND...    COMMAND is envkit's

A line `saved ENV@V DIGEST` is promised to be true for ever: that version is there, and /opt/file in it has this SHA-256.
A line `loose NAME DIGEST` is a negative control: a file of this name was written into DIRECTORY, and nobody saw to it that
it stays.
"""

import hashlib
import itertools
import os
import random
import subprocess
import sys
import threading
import time

_MEDIUM = 300_000
_FILL = """
cat >/opt/file
rm -rf /opt/many
mkdir /opt/many
for number in 1 2 3 4 5 6 7 8 9; do echo "$1 $number" >/opt/many/$number; done
"""


def main():
    """Save for ever."""
    env, directory, *envkit = sys.argv[1:]
    os.makedirs(directory, exist_ok=True)
    threading.Thread(target=loose, args=[directory], daemon=True).start()
    for number in itertools.count():
        content = random.randbytes(random.randrange(_MEDIUM))
        subprocess.run([*envkit, "exec", env, "--", "sh", "-c", _FILL, "sh", str(number)], input=content, check=True)
        version = subprocess.run([*envkit, "save", env], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        say("saved", version, content)


def loose(directory):
    """Write small files and say so at once."""
    while True:
        name = os.urandom(8).hex()
        content = os.urandom(4000)
        with open(f"{directory}/{name}", "wb") as file:
            file.write(content)
        say("loose", name, content)
        time.sleep(0.3)


def say(kind, name, content):
    """Print one line, at once and in one piece."""
    os.write(1, f"{kind} {name} {hashlib.sha256(content).hexdigest()}\n".encode())


if __name__ == "__main__":
    main()
