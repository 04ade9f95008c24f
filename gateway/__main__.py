"""``python -m gateway`` is ``mailonce``."""

from gateway.cli import main

if __name__ == "__main__":
    main()
