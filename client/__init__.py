"""The institution's side: training, tasks, data. Knows `protocols` only."""
