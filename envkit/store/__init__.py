"""The object store: objects, their layout, versions.

`base` is the interface, `directory` and `bucket` the backends of it; `open` chooses one by URL; `connect` and
`credentials` reach a bucket, `faults` reads what its server says, `probe` tries what it promises. `layout` names the
keys; `objects` keeps packs and trees, `versions` the versions of environments, `records` copies of them here; `index`
remembers here which chunks a store has.
"""
