"""Owns the account of a start pack on its way."""

from envkit.model.record import Record


class Progress(Record):
    """What a stream has done. Frames that nobody needs are `skipped`; those that could not be had are `gone`."""

    frames: int
    skipped: int
    done: int
    gone: int
    hurried: int
    granules: int
    bytes: int
    seconds: float
