"""Listening sockets that are opened: what is taken already is never taken away."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gateway import listener
from gateway.config.place import Endpoint
from gateway.errors import ConfigError


def test_a_unix_socket_that_is_served_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two gateways of one configuration: the second must not take the first one's clients."""
    monkeypatch.setattr(listener, "_PATIENCE_S", 0.1)
    endpoint = Endpoint(path=str(tmp_path / "smtp"))
    (first,) = listener.open_all("listen.smtp", [endpoint])
    with first:
        with pytest.raises(ConfigError, match="Address already in use"):
            listener.open_all("listen.smtp", [endpoint])
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(endpoint.path)
    (second,) = listener.open_all("listen.smtp", [endpoint])
    second.close()
