// Refreshes the live parts of a page while somebody looks at it, and leaves a page alone in which
// somebody types or has chosen something. Without it the console works as well.
"use strict";

const PERIOD_MS = 10000;

function isBusy(part) {
  const focused = document.activeElement;
  return part.contains(focused) || !document.getSelection().isCollapsed;
}

async function refresh() {
  if (document.hidden || !document.querySelector("main [data-live]")) {
    return;
  }
  try {
    const answer = await fetch(location.href, { redirect: "error" });
    if (!answer.ok) {
      return;
    }
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const successor = fresh.getElementById(part.id);
      if (successor && !isBusy(part)) {
        part.replaceWith(successor);
      }
    }
  } catch {
    // The gateway is gone or restarts: the next round tells.
  }
}

setInterval(refresh, PERIOD_MS);
