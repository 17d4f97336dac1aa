"""What `rounds.py` times: Barnraise, Flower's SuperLink, and what the machine itself allows."""
