"""The client for asyncio: the same recipes and rules, driven by tasks. Needs aiohttp."""
