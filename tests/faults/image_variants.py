"""Variants of the image server, made by name in its own processes: impatient ones, and promises broken on purpose.

The broken ones are what the tests of the image server's faults have to notice.
"""

import contextlib

_PROGRAM = "from faults.image_variants import apply; apply({names!r}); from envkit.ondemand.main import main; main()"


@contextlib.contextmanager
def starting(*names):
    """Have every image server that this process starts meanwhile be of these variants, and those that follow it."""
    from envkit.ondemand import holder

    usual = holder._PROGRAM
    holder._PROGRAM = _PROGRAM.format(names=names)
    try:
        yield
    finally:
        holder._PROGRAM = usual


def apply(names):
    """Change envkit in this process, which is one of an image server's."""
    from envkit.ondemand import holder

    holder._PROGRAM = _PROGRAM.format(names=names)
    for name in names:
        _VARIANTS[name]()


def _quick_restart():
    """A server that dies often is started again as soon as one that does not."""
    from envkit.ondemand import holder

    holder._LONGEST_PAUSE = 0.02


def _impatient():
    """What cannot be had is given up after two seconds."""
    from envkit.ondemand import fetcher

    fetcher.PATIENCE = (2.0, 2.0)


def _no_background():
    """Nothing is fetched but what is read and what comes right after it."""
    from envkit.ondemand import background

    background.Background.tick = lambda self: 60.0


def _unfinished():
    """A layer stays with the server when all of it is there, and is not mounted directly."""
    from envkit.cache.layer import CachedLayer

    CachedLayer.finish = lambda self: False


def _no_replay():
    """What a killed server had read and not answered is not answered by the next."""
    from envkit.ondemand.journal import Journal

    Journal.left = lambda self: iter(())


def _little_memory():
    """One megabyte of chunks is kept in memory, where the cache has no room."""
    from envkit.ondemand import overflow

    overflow.MAX_BYTES = 1 << 20


def _interrupts():
    """Every signal ends the read that its process waits for."""
    import errno

    from envkit.ondemand.loop import Loop

    Loop._let_go = staticmethod(lambda waiting: waiting and waiting.refuse(errno.EINTR))


def _no_size_check():
    """Nobody looks whether the cache's files were cut."""
    from envkit.cache.datafile import DataFile

    DataFile.check = lambda self: None


def _no_verification():
    """What the cache has is taken for what it should be."""
    from envkit.cache.layer import CachedLayer

    def verify(self, number):
        self._verified.add(number)
        return True

    CachedLayer._verify = verify


_VARIANTS = {
    "quick-restart": _quick_restart,
    "impatient": _impatient,
    "no-background": _no_background,
    "unfinished": _unfinished,
    "no-replay": _no_replay,
    "little-memory": _little_memory,
    "interrupts": _interrupts,
    "no-size-check": _no_size_check,
    "no-verification": _no_verification,
}
