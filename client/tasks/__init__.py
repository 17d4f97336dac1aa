"""What a federation can learn: the `Task` protocol, the built-in tasks, and tasks of one's own."""

from barnraise.client.tasks.loading import load_task
from barnraise.client.tasks.task import Columned, Recorded, Sampler, Split, Task

__all__ = ["Columned", "Recorded", "Sampler", "Split", "Task", "load_task"]
