"""envkit for Python programs: calls in environments as futures, and environments.

It talks to the command line of envkit and needs nothing else of it, so it can be installed into any Python. What users
import is in `envkit` itself, which imports this package when it is first asked for.
"""
