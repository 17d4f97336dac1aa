"""What a federation can learn: the `Task` protocol, the built-in tasks, and tasks of one's own."""

from barnraise.client.tasks.task import Sampler, Split, Task, load_task

__all__ = ["Sampler", "Split", "Task", "load_task"]
