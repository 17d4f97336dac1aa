"""The built-in campaign as a Flower app: what `deploy/flower` names as its components.

`server` conducts a charter on Flower's SuperLink, or in its simulation, with our journal; `client` is the
member's side. Neither imports the other, since each is loaded by a process of its own.
"""
