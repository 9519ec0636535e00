"""The object store: objects, their layout, versions.

`base` is the interface and `directory` the backend of it; `open` chooses the backend by URL; `layout` names the
keys; `objects` keeps packs and trees, `versions` the versions of environments; `index` remembers on this machine
which chunks a store has.
"""
