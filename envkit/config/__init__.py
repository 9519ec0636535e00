"""File, environment and flags become one frozen Config."""
