"""File contents as chunks and packs."""
