"""What runs on a node: mounted stacks, containers."""
