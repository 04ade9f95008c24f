"""mailonce: an inbound e-mail deduplication gateway.

The package is built in floors; imports go down only (`make check` proves it):

    0  errors          our exception tree
    1  core/           pure: bytes and values in, decisions out
    2  ports           what the upper floors ask of the world
       config/         TOML and environment to a frozen model
       watchdog        one timer for many waits
    3  screening       examine, claim, decide, settle for one message (with candidate)
       inflow, spool   content as it comes in; where a suspect message waits
       recall          what list and journal know of the past
       edge/           adapters: tracking lists, downstream, journal, metrics
    4  desk            what every transaction works with
       plan, account   what is to be done with a message; what became of it
       lease           of its claims
       hop, guard      one transaction with the downstream; the open-relay guard
       relay           one client's transactions, top to bottom
    5  faces/          wire protocols towards our clients: SMTP, milter, HTTP
    6  wiring          from the configuration to the parts
       worker          one process that serves (with control, door, shared_memory)
       supervisor      keeps the workers
       service         ``mailonce serve`` (with listener, lookout, systemd)
    7  demo/ doctor/ scan/ trace    the other commands
       cli             what each prints, and how it ends
    8  __main__        ``python -m gateway``

Start reading at ``docs/flow.md``, then ``core/policy.py``, ``screening.py``, ``relay.py``,
``faces/smtp.py``. ``docs/modules.md`` has every module in one line.
"""

__version__ = "0.1.0"
