"""mailonce: an inbound e-mail deduplication gateway.

The package is built in floors; imports go down only (`make check` proves it):

    0  errors        our exception tree
    1  core/         pure: bytes and values in, decisions out
    2  ports         what the upper floors ask of the world
       config        TOML and environment to a frozen model
       watchdog      one timer for many waits
    3  screening     examine, claim, decide, settle for one message
       spool         where a suspect message waits
       edge/         adapters: tracking lists, downstream, journal, metrics
    4  relay         one SMTP transaction, top to bottom
    5  faces/        wire protocols towards our clients
    6  service       the only wiring
    7  cli, demo     commands
    8  __main__      ``python -m gateway``

Start reading at ``docs/flow.md``, then ``core/policy.py``, ``screening.py``, ``relay.py``,
``faces/smtp.py``.
"""

__version__ = "0.1.0"
