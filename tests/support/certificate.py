"""Certificates for tests: made by openssl, signed by themselves, good for a day."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.need import need


@dataclass(frozen=True, slots=True)
class Pair:
    """PEM files of one certificate.

    Attributes:
        certificate: for the server, and for clients that are to trust it.
        key: without passphrase.
    """

    certificate: Path
    key: Path


def make_certificate(folder: Path, *names: str) -> Pair:
    """Make a certificate for host names or addresses.

    Args:
        folder: where the files go; they are named after the first name.
        names: DNS names, or IP addresses.
    """
    need("openssl")
    pair = Pair(folder / f"{names[0]}.crt", folder / f"{names[0]}.key")
    alternatives = ",".join(
        f"{'IP' if name.replace('.', '').isdigit() else 'DNS'}:{name}" for name in names
    )
    command = [
        *("openssl", "req", "-x509", "-nodes", "-days", "1", "-newkey", "ec"),
        *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", f"/CN={names[0]}"),
        *("-addext", f"subjectAltName={alternatives}"),
        *("-out", str(pair.certificate), "-keyout", str(pair.key)),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return pair
