"""Push watches: one feed a watched thing, followed by any number of readers."""
