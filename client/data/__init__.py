"""What an institution states of its data: answers, counting and committing, what is kept, openings.

Of the data themselves nothing gets into a statement but counts and digests.
"""
