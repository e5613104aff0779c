// One customer's forecast for a person. The customer id is the URL's hash, so that links, back and forward work.
"use strict";

const TIMEOUT_MS = 30_000; // a cold instance starts well within
const MONEY = ["predicted_value", "value_p10", "value_p50", "value_p90"];
const FINAL = new Set(["no_prediction", "invalid_request", "too_large", "head_too_large", "unauthenticated", "forbidden"]);
const ORDINALS = ["", "", "second ", "third ", "fourth ", "fifth "];
// Whatever an answer says becomes text, never markup.
const part = (name) => document.querySelector(`[data-part="${name}"]`);
const customerInput = part("search").elements.customer;
const tokenInput = part("access").elements.token;

let token = ""; // in this variable alone: not in the URL, not in any storage
let latest = new AbortController(); // of the newest request; older ones are cut off

/** What the service (or the way to it) refused; `code` and `detail` are the problem's own. */
class Problem extends Error {
  constructor(code, detail = "", seconds = 0) {
    super(detail);
    Object.assign(this, { code, detail, seconds });
  }
}

// For an answer without a code: a proxy's.
const CODE_OF = { 401: "unauthenticated", 403: "forbidden", 413: "too_large", 414: "too_large", 429: "overloaded" };

async function ask(path, signal) {
  let response;
  try {
    response = await fetch(path, {
      cache: "no-store", // a forecast is about a person: it is not left on a disk
      headers: token ? { Authorization: `Bearer ${token}` } : {},
      signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
    });
    const body = await response.json();
    if (response.ok && body) return body;
    const seconds = Number(response.headers.get("Retry-After"));
    throw new Problem(body?.code ?? CODE_OF[response.status], body?.detail, seconds);
  } catch (error) {
    if (error instanceof Problem || signal.aborted) throw error;
    if (error.name === "TimeoutError") throw new Problem("timeout");
    if (!response) throw new Problem("unreachable");
    // Not JSON: something between here and the service has answered.
    throw new Problem(CODE_OF[response.status], `the answer was HTTP ${response.status}`);
  }
}

const settled = (promise) => promise.catch((error) => (error instanceof Problem ? error : Promise.reject(error)));

/** The customer's row (null without an id) and what is known of its generation; a Problem where that failed. */
async function lookUp(id, signal) {
  for (let retry = true; ; retry = false) {
    const [row, generation] = await Promise.all([
      id === null ? null : settled(ask(`v1/customers/${encodeURIComponent(id)}/value`, signal)),
      settled(ask("v1/generation", signal)),
    ]);
    const torn = row?.generation && generation.generation && row.generation !== generation.generation;
    // A publish has switched between the two answers; what is said of one generation is not true of the other.
    if (torn && retry) continue;
    return [row, torn ? new Problem("torn") : generation];
  }
}

function sentence(problem, id, generation) {
  const why = problem.detail ? `: ${problem.detail.replace(/\.$/, "")}.` : ".";
  switch (problem.code) {
    case "no_prediction": {
      const run = generation.as_of ? ` in the run as of ${generation.as_of}` : "";
      const hint = id === id.trim() ? "Capitals and spaces count." : "It begins or ends with a space, which counts.";
      return `There is no prediction for customer “${id}”${run}. ${hint}`;
    }
    case "nothing_published": return "No forecast is being served: nothing is published, or what was has expired.";
    case "invalid_request": return `The service does not accept this as a customer id${why}`;
    case "too_large": case "head_too_large": return "This customer id is too long.";
    case "unauthenticated":
      return token ? `The service does not accept this token${why}` : "The service wants a token.";
    case "forbidden": return `This token is valid, but may not look customers up${why}`;
    case "overloaded": return `The service is busy. Try again ${problem.seconds ? `in ${problem.seconds} s` : "soon"}.`;
    case "store_unavailable": return "The service cannot reach its store just now.";
    case "timeout": return `The service has not answered within ${TIMEOUT_MS / 1000} s.`;
    case "unreachable": return "The service cannot be reached.";
    default: return `The service failed${why}`;
  }
}

function say(text, { onlyAloud = false, retry = false } = {}) {
  part("status").textContent = text;
  part("status").classList.toggle("said", onlyAloud);
  part("retry").hidden = !retry;
}

function askForToken(problem) {
  const wanted = problem.code === "unauthenticated" || problem.code === "forbidden";
  const appears = wanted && part("access").hidden;
  part("access").hidden = !wanted;
  if (appears) tokenInput.focus();
  if (!wanted) tokenInput.value = "";
}

/** A number that is not 0 never reads as 0. */
function number(value, digits, { suffix = "", atLeast = 0 } = {}) {
  const format = new Intl.NumberFormat("en", { minimumFractionDigits: atLeast, maximumFractionDigits: digits });
  const smallest = 10 ** -digits;
  if (value > 0 && value < smallest / 2) return `below ${format.format(smallest)}${suffix}`;
  return format.format(value) + suffix;
}

const money = (value) => number(value, 2, { atLeast: 2 });
const percent = (value) => (value < 1 && value > 0.9995 ? "above 99.9%" : number(100 * value, 1, { suffix: "%" }));
const moment = (text) => `${new Date(text).toISOString().slice(0, 16).replace("T", " ")} UTC`;

function decileWords(decile) {
  const [rank, end] = decile <= 5 ? [decile, "most"] : [11 - decile, "least"];
  return `the ${ORDINALS[rank]}${end} valuable tenth`;
}

function fill(name, text, value) {
  for (const field of document.querySelectorAll(`[data-field="${name}"]`)) {
    field.textContent = text;
    if (value !== undefined) field.value = value;
  }
}

function showValue(row) {
  fill("customer_id", row.customer_id);
  fill("window", `in the ${row.horizon_days} days from ${row.as_of}`);
  for (const name of MONEY) fill(name, money(row[name]), row[name]);
  fill("mean", money(row.predicted_value), row.predicted_value);
  fill("purchase_probability", percent(row.purchase_probability), row.purchase_probability);
  fill("expected_orders", number(row.expected_orders, 2), row.expected_orders);
  fill("decile", row.decile, row.decile);
  fill("decile_words", decileWords(row.decile));
  drawInterval(row);
}

/** Of the row's generation; `about` is what /v1/generation says, a Problem where that is not known. */
function showRun(run, about) {
  const known = !(about instanceof Problem);
  for (const name of ["generation", "as_of", "model_version"]) fill(name, run[name]);
  fill("horizon", `${run.horizon_days} days`);
  const told = (text) => (known ? text() : "not known just now");
  fill("rows", told(() => number(about.rows, 0)));
  fill("published_at", told(() => moment(about.published_at)));
  fill("expires_at", told(() => (about.expires_at ? moment(about.expires_at) : "never")));
}

/** The ends of at most five equal steps that lead from 0 to `top` or just beyond. */
function axisTicks(top) {
  const rough = (top < 0.01 ? 1 : top) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough);
  return Array.from({ length: Math.max(1, Math.ceil(top / step - 1e-9)) + 1 }, (_, index) => index * step);
}

function drawInterval(row) {
  const ticks = axisTicks(Math.max(row.value_p90, row.predicted_value));
  const end = ticks.at(-1);
  const x = (value) => `${(100 * value) / end}%`;
  const shape = (name, attributes, text = "") => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return element;
  };
  const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
  const anchor = (value) => (value === 0 ? "start" : value === end ? "end" : "middle");
  part("interval").replaceChildren(
    shape("line", { class: "axis", x1: 0, x2: "100%", y1: 44, y2: 44 }),
    ...ticks.map((value) => shape("line", { class: "tick", x1: x(value), x2: x(value), y1: 4, y2: 50 })),
    ...ticks.map((value) => shape("text", { x: x(value), y: 66, "text-anchor": anchor(value) }, short.format(value))),
    shape("rect", { class: "band", x: x(row.value_p10), width: x(row.value_p90 - row.value_p10), y: 14, height: 20 }),
    shape("line", { class: "p50", x1: x(row.value_p50), x2: x(row.value_p50), y1: 9, y2: 39 }),
    shape("circle", { class: "mean", cx: x(row.predicted_value), cy: 24, r: 7 }),
  );
  const [p10, p50, mean, p90] = [row.value_p10, row.value_p50, row.predicted_value, row.value_p90].map(money);
  part("interval").setAttribute("aria-label", `Spend: p10 ${p10}, p50 ${p50}, mean ${mean}, p90 ${p90}`);
}

function idInHash() {
  const hash = location.hash.slice(1);
  try {
    return hash === "" ? null : decodeURIComponent(hash);
  } catch {
    return hash; // typed by hand, with a bare %
  }
}

async function show() {
  latest.abort();
  latest = new AbortController();
  const { signal } = latest;
  const id = idInHash();
  document.title = id === null ? "Customer value" : `${id} · Customer value`;
  if (id === "." || id === "..") {
    for (const name of ["value", "run"]) part(name).hidden = true;
    return say("An address cannot hold the ids “.” and “..”: look them up with python -m serving.lookup.");
  }
  for (const name of ["value", "run"]) part(name).ariaBusy = "true";
  // A button that went away while it is pressed would take the focus with it.
  say(id === null ? "" : `Looking up ${id} …`, { retry: !part("retry").hidden });
  try {
    const [row, generation] = await lookUp(id, signal);
    if (!signal.aborted) render(id, row, generation);
  } catch (error) {
    if (signal.aborted) return; // a newer request has taken over
    render(id, new Problem("page", "this page does not understand its answer"), new Problem("page"));
    throw error;
  }
}

function render(id, row, generation) {
  const problem = [row, generation].find((answer) => answer instanceof Problem);
  const found = row !== null && !(row instanceof Problem);
  const run = found ? row : generation instanceof Problem ? null : generation;
  if (found) showValue(row);
  if (run) showRun(run, generation);
  fill("run_title", found ? "The run it comes from" : "The run being served");
  for (const [name, shown] of [["value", found], ["run", run !== null]]) {
    part(name).hidden = !shown;
    part(name).ariaBusy = "false";
  }
  askForToken(found || !problem ? {} : problem);
  if (found) say(`Customer ${row.customer_id}: predicted value ${money(row.predicted_value)}.`, { onlyAloud: true });
  else if (problem) say(sentence(problem, id ?? "", generation), { retry: !FINAL.has(problem.code) });
  else say("Type a customer id and press Enter.");
}

part("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const hash = `#${encodeURIComponent(customerInput.value.toWellFormed())}`;
  if (hash === location.hash) show();
  else location.hash = hash; // and hashchange shows it
});
part("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token = tokenInput.value.trim();
  if (/^[\x21-\x7e]+$/.test(token)) return show();
  token = "";
  say("A token has no spaces and no letters beyond ASCII: this is something else.");
});
part("retry").addEventListener("click", show);

function followHash() {
  customerInput.value = idInHash() ?? "";
  show();
}
addEventListener("hashchange", followHash);
followHash();
