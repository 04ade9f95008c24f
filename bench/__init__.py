"""The measuring rig: mailonce and its peers under the same load, on one machine, in one run.

``python -m bench`` measures everything, ``python -m bench --quick`` the short list in a minute.
What was tried to make mailonce faster, and what it brought, is in ``NOTES.md``.
"""
