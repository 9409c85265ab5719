"""The words everyone shares: rows, commands, queries, errors. Pure; imports nothing of ours."""
