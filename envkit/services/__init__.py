"""Use cases: the order of operations, without a command line."""
