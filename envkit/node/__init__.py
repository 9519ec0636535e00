"""What runs on a node: layer cache, mounted stacks, containers."""
