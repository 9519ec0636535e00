"""The base that tests of the command line use serves here too."""

from integration.conftest import disk, tiny_root  # noqa: F401  # fixtures
