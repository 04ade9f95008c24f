"""Adapters: they know the ports and the core, never each other; `wiring` makes them."""
