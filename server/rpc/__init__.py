"""How hosts speak to each other: frames, sessions, the listener and the client."""
