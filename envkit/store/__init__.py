"""The object store: objects, their layout, versions."""
