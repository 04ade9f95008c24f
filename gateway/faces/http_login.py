"""The page where the token is typed in. It shows nothing else of the gateway."""

from __future__ import annotations

from gateway.faces.http_html import shown, tag


def login_page(hostname: str, *, has_failed: bool) -> str:
    """Return the page."""
    problem = tag("p", "That is not the token.", class_="problem", role="alert")
    form = tag(
        "form",
        tag("h1", tag("b", "mailonce"), tag("span", shown(hostname))),
        problem if has_failed else None,
        tag("label", tag("span", "Token (listen.http_token)"), _FIELD),
        tag("button", "Log in", type="submit"),
        method="post",
        action="/login",
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", "Log in · mailonce"),
        tag("link", rel="stylesheet", href="/console.css"),
    )
    body = tag("body", tag("main", form), class_="login")
    return "<!doctype html>\n" + tag("html", head, body, lang="en")


_FIELD = tag(
    "input",
    type="password",
    name="token",
    autocomplete="current-password",
    required=True,
    autofocus=True,
)
