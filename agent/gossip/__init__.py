"""Membership and failure detection: SWIM with Lifeguard, as event handlers; `loop.py` drives them."""
