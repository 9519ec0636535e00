"""Owns the keys that seal what tasks leave in a store: one a submission, derived from a secret of this machine.

Only machines with the same secret can read results and output of a job: the one that submitted it, or several head
nodes whose admin has copied `ROOT/queue/secret`. Nodes get a job's own key with its batch script, never the secret.
"""

import hmac
import os

from envkit.drivers.files import locked, make_directory, read_bounded, write_atomic
from envkit.errors import Damaged
from envkit.model.paths import Paths

_BYTES = 32


def submission_key(paths: Paths, owner: str, token: str) -> bytes:
    """Return the key of a submission; makes this machine's secret if there is none.

    :raises Damaged: the secret was cut short.
    """
    make_directory(paths.queue, mode=0o700)
    path = f"{paths.queue}/secret"
    secret = read_bounded(path, _BYTES)
    if secret is None:
        with locked(f"{path}.lock"):  # two first submissions at the same time
            secret = read_bounded(path, _BYTES)
            if secret is None:
                secret = os.urandom(_BYTES)
                write_atomic(path, secret)
    if len(secret) != _BYTES:
        raise Damaged(f"{path} is damaged", resolution="remove it; results of earlier jobs cannot be read then")
    return hmac.digest(secret, f"{owner}/{token}".encode(), "sha256")
