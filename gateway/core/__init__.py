"""Pure mail logic: octets and values in, decisions out.

Nothing in here waits, reads a clock, draws a random number, logs or opens anything; what it needs
of the world comes in as an argument. Floors inside, ground first: ``reply``, ``envelope``,
``header`` and ``content`` know octets; ``message_id``, ``fingerprint`` and ``unique_id`` identify a
message; ``rule`` and ``policy`` decide.
"""
