"""Owns what an environment's records say together: which versions live, what deleted the others, which tags stand.

The newest record that speaks of a version decides over it. Reading all records is for commands that show or change
history; `store/versions.py` answers the questions of `envkit run` from the newest few.
"""

from collections.abc import Iterable

from envkit.model.version import Version, VersionKind


class History:
    """All records of one environment that the store still has.

    :ivar records: all of them, the oldest first.
    :ivar versions: those that are versions, deleted or not, by number.
    :ivar tags: the tags that stand, each with the number of the version that it means.
    """

    def __init__(self, records: Iterable[Version]) -> None:
        self.records = sorted(records, key=lambda record: record.number)
        self.versions = {record.number: record for record in self.records if record.is_version}
        self.tags: dict[str, int] = {}
        self._deciding: dict[int, Version] = {}
        for record in self.records:
            for number in (*record.deletes, *record.restores):
                self._deciding[number] = record
            if record.tag is not None:
                self.tags[record.tag] = record.target
        self.tags = {tag: number for tag, number in sorted(self.tags.items()) if number}

    def tombstone_of(self, number: int) -> Version | None:
        """Return the tombstone that deletes a version as things stand, or None where none does."""
        record = self._deciding.get(number)
        return record if record is not None and record.kind is VersionKind.TOMBSTONE else None

    @property
    def deleted(self) -> list[int]:
        """The numbers that are deleted now, also of versions whose records were collected since, in order."""
        return sorted(number for number in self._deciding if self.tombstone_of(number) is not None)

    @property
    def live(self) -> list[int]:
        """The numbers of the versions that are not deleted, in order."""
        return [number for number in self.versions if self.tombstone_of(number) is None]

    @property
    def newest_tombstone(self) -> Version | None:
        """The newest tombstone that still deletes something, or None."""
        standing = [record for number in self.deleted if (record := self.tombstone_of(number)) is not None]
        return max(standing, key=lambda record: record.number, default=None)

    @property
    def description(self) -> str:
        """The description as it stands: that of the newest version that lives, or of a newer record about it."""
        live = set(self.live)
        for record in reversed(self.records):
            if record.kind is VersionKind.DESCRIBE or record.number in live:
                return record.description
        return ""

    def tags_of(self, number: int) -> list[str]:
        """Return the tags that mean a version."""
        return [tag for tag, target in self.tags.items() if target == number]
