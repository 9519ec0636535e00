"""What a node keeps of layers, complete or in part; it may all be deleted at any time."""
