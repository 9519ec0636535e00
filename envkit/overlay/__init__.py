"""Overlay stacks: mount options, and reading back what an upper directory changed."""
