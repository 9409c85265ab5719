"""The program on every host: HTTP API, checks, local registrations, templates, and the way to the servers."""
