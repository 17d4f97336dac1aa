"""`barnraise doctor`: checks on either side; each failure has a code of its own and one fix."""
