"""File contents as chunks and packs, and trees as bytes.

`chunker` cuts contents into chunks, `pack` compresses and gathers them for the store, `reader` gets them back,
`treefile` is the stored form of trees, `frame` the one place that unpacks zstd.
"""
