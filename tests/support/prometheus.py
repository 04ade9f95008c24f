"""A real Prometheus with the rules of `deploy/`, scraping one target every second."""

from __future__ import annotations

import contextlib
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.need import need, program
from tests.support.process import Child, free_port, start, temporary_folder, wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
_HTTP_LIMIT_S = 10.0

Sample = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One instance.

    Attributes:
        port: of its HTTP interface.
        child: its process.
    """

    port: int
    child: Child

    def query(self, expression: str) -> list[Sample]:
        """Return what an expression comes to now.

        Raises:
            AssertionError: it is none; the text says why.
        """
        body = self._ask("query", query=expression)
        assert body["status"] == "success", f"{expression}\n{body.get('error')}"
        data = body["data"]
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        found: list[Sample] = data["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Return all rules with their state."""
        groups = self._ask("rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def alerts(self) -> set[str]:
        """Return the names of alerts that are pending or firing."""
        return {rule["name"] for rule in self.rules() if rule.get("alerts")}

    def _ask(self, path: str, **parameters: str) -> dict[str, Any]:
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}"
        try:
            with urllib.request.urlopen(url, timeout=_HTTP_LIMIT_S) as answer:  # ours
                body: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:  # it is starting, or the query is none
            body = {"status": "error", "error": error.read().decode()}
        except OSError:
            body = {"status": "error", "error": "no answer"}
        return body


@contextlib.contextmanager
def running_prometheus(target_port: int) -> Iterator[Prometheus]:
    """Run it as `deploy/prometheus/prometheus.yml` says, but quicker and on a target of ours."""
    need("prometheus")
    with temporary_folder("prometheus") as folder:
        text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
        text, targets = re.subn(r'targets: \[".*"\]', f'targets: ["127.0.0.1:{target_port}"]', text)
        text, intervals = re.subn(r"interval: 15s", "interval: 1s", text)
        assert (targets, intervals) == (1, 2), "the file is not as this module expects it"
        (folder / "prometheus.yml").write_text(text)
        (folder / "rules.yml").write_text((DEPLOY / "prometheus" / "rules.yml").read_text())
        port = free_port()
        child = start(
            [
                program("prometheus"),
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            folder / "log",
        )
        prometheus = Prometheus(port, child)
        try:
            wait_until(lambda: _is_scraping(prometheus), "Prometheus to scrape", 30.0, child)
            yield prometheus
        finally:
            child.stop()


def _is_scraping(prometheus: Prometheus) -> bool:
    with contextlib.suppress(AssertionError):
        return bool(prometheus.query("up == 1"))
    return False
