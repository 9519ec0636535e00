"""The only code that touches kernel interfaces and external programs."""
