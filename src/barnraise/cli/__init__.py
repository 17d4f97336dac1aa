"""The verbs, how they show a run, and how they end. Nothing heavy is imported before a verb needs it."""
