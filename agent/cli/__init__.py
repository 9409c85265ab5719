"""The `gemot` command: one file a command group."""
