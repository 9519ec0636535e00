"""Use cases of jobs: from a submission over a task on a node to its result."""
