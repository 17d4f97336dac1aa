"""The institution's side: tasks, data, local training, and the built-in ClientApp.

Knows `protocols` alone. The node's daemon and worker will live here too.
"""
