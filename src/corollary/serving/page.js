"use strict";
const at = id => document.getElementById(id);
const figure = (x, digits = 6) => x === null || x === undefined ? "–" : Number(x.toPrecision(digits)).toString();
let key = "";

function fill(table, heads, rows) {
  const cell = (kind, text) => { const c = document.createElement(kind); c.textContent = text; return c; };
  const line = (kind, cells) => { const r = document.createElement("tr"); r.append(...cells.map(t => cell(kind, t))); return r; };
  table.replaceChildren(line("th", heads), ...rows.map(r => line("td", r)));
}

function list(place, pairs) {
  place.replaceChildren(...pairs.flatMap(([name, value]) => {
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = name; dd.textContent = value;
    return [dt, dd];
  }));
}

function show(s) {
  const c = s.certificate;
  at("state").textContent = (s.ready ? "ready" : "not ready") + ", " + s.requests + " requests";
  at("statement").textContent = c.status + ": " + (c.status === "holds" ? c.statement : c.revoked || c.reason);
  at("statement").className = c.status;
  list(at("monitors"), Object.entries(c.monitors).map(([name, m]) =>
    [name, "log capital " + figure(m.log_capital, 3) + " of " + figure(-Math.log(m.level), 3)]));
  list(at("spend"), [["charged", figure(s.charged) + " " + s.unit], ["of it unknown or in flight", figure(s.in_flight)],
    ["exploration", figure(100 * s.exploration, 3) + " %"], ["calls", Object.entries(s.states).map(([k, v]) => v + " " + k).join(", ")]]);
  fill(at("budgets"), ["budget", "money left", "tokens left", "new in"], s.budgets.map(b => [b.name,
    b.money === null ? "–" : figure(b.money_left) + " of " + figure(b.money),
    b.tokens === null ? "–" : b.tokens_left + " of " + b.tokens, b.ends_in === null ? "never" : b.ends_in + " s"]));
  fill(at("models"), ["model", "requests", "calls", s.unit, "tokens in", "tokens out", "quality", "judged", "breaker"],
    Object.entries(s.models).map(([name, m]) => [name, m.requests ?? 0, m.calls, figure(m.money), m.tokens_in, m.tokens_out,
      figure(m.quality, 3), m.scored ?? 0, (s.upstreams[name] || {}).breaker || "–"]));
  fill(at("keys"), ["key", "requests", s.unit], Object.entries(s.keys).map(([name, k]) => [name, k.requests, figure(k.money)]));
  fill(at("latest"), ["request", "model", "status", "seconds", "ago"], s.latest.map(r => [r.id, r.served || "–",
    r.status === null ? "under way" : r.status, figure(r.seconds, 3), Math.max(0, Math.round(s.now - r.created)) + " s"]));
  document.body.dataset.shown = "yes";
}

async function look() {
  try {
    const reply = await fetch("/v1/status", {headers: key ? {Authorization: "Bearer " + key} : {}});
    if (reply.ok) {
      at("door").hidden = true;
      show(await reply.json());
    } else {
      at("state").textContent = (await reply.json()).error.message;
      if (reply.status === 401 || reply.status === 403) { key = ""; at("door").hidden = false; return; }
    }
  } catch {
    at("state").textContent = "the gateway does not answer";
  }
  setTimeout(look, 2000);
}

at("ask").addEventListener("submit", event => {
  event.preventDefault();
  key = at("key").value.trim();
  at("key").value = "";
  if (key) look();
});
if (document.body.dataset.locked === "yes") at("door").hidden = false; else look();
