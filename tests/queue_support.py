"""A queue that runs nothing: for tests of what is made of its answers."""

from envkit.model.jobid import TaskId
from envkit.model.task import JobStatus, TaskStatus
from envkit.queues.queue import Queue, QueueFailed


class Given(Queue):
    """A queue whose answers a test gives; counts the questions, and keeps what it is told."""

    name = "given-1"

    def __init__(self):
        self.jobs = {}
        self.questions = 0
        self.failures = 0
        self.killed = []
        self.submitted = []
        self.machines = []

    def say(self, number, *states, user="root", comment=""):
        tasks = tuple(
            TaskStatus(id=TaskId(job=number, index=i), state=state, node="n1") for i, state in enumerate(states)
        )
        self.jobs[number] = JobStatus(number=number, comment=comment, user=user, tasks=tasks)

    def statuses(self, jobs=None):
        self.questions += 1
        if self.failures:
            self.failures -= 1
            raise QueueFailed("the queue does not answer")
        return {number: status for number, status in self.jobs.items() if jobs is None or number in jobs}

    def kill(self, tasks):
        self.killed += tasks
        return []

    def submit(self, submission):
        self.submitted.append(submission)
        return 100 + len(self.submitted)

    def nodes(self):
        return self.machines

    def inside(self, task, argv, *, terminal):
        raise NotImplementedError
