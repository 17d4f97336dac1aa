"""The demo: a whole federation on one machine, on real text, and each member alone beside it."""
