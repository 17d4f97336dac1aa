"""What a federation can learn: the `Task` protocol, the built-in tasks, and tasks of one's own."""

from barnraise.client.tasks.loading import load_task
from barnraise.client.tasks.task import Columned, Sampler, Split, Task

__all__ = ["Columned", "Sampler", "Split", "Task", "load_task"]
