"""What must not leave the machine with a save: rules as data, and the plan they make."""
