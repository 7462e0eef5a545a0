// What the page can do on top of plain forms: keys, a clock, drafts, views without loading anew, scrolling together.

const IDLE_MS = 120_000; // with no sign of life for so long, nobody is at work
const DRAFT = "annotate:";
const SENT = "annotate-sent"; // whose draft goes once the server says that it has kept the answer
const KEEP_MS = 14 * 86_400_000; // drafts of pairs that never came back
const PATIENCE_MS = 5000; // after which a form that was sent, and not answered, may be sent again

const byId = (id) => document.getElementById(id);
const answer = byId("answer");
const texts = () => byId("texts");

document.documentElement.classList.add("scripts");
if (byId("status").textContent) setTimeout(() => say(byId("status").textContent), 0);
const did = new URLSearchParams(location.search).get("did");
if (did) history.replaceState(null, "", location.pathname);
addEventListener("pageshow", (event) => event.persisted && location.reload());

let fading;

function say(message, forMs = 3000) {
  byId("status").textContent = message;
  clearTimeout(fading);
  fading = setTimeout(() => byId("status").replaceChildren(), forMs);
}

// --- the clock ---------------------------------------------------------------------------------------------------

let sent = false; // a form is on its way
let active = 0;
let since = performance.now();
let alive = performance.now();

function count() {
  const now = performance.now();
  if (!document.hidden && now - alive < IDLE_MS) active += now - since;
  since = now;
  const clock = byId("clock");
  const seconds = Math.floor(active / 1000);
  if (clock) clock.textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

function live() {
  const now = performance.now();
  if (now - alive >= IDLE_MS) since = now; // the pause does not count
  alive = now;
}

// --- the lease: the pair stays with whoever is at work on it ---------------------------------------------------------

let pinged = performance.now();

async function ping() {
  if (document.hidden || sent || alive < pinged) return;
  pinged = performance.now();
  const { csrf, lease } = answer.elements;
  const body = new URLSearchParams({ csrf: csrf.value, lease: lease.value });
  try {
    const response = await fetch("/ping", { method: "POST", body, headers: { accept: "application/json" } });
    if (response.ok) return;
    clearInterval(pinging);
    const { refused, message } = await response.json();
    const stale = "This pair may be with somebody else by now. Your answer is taken if it is still wanted.";
    say(refused === "stale" ? stale : message, 20_000);
  } catch { /* the server is away: it may be back before the lease ends */ }
}

const pinging = answer && setInterval(ping, 1000 * Number(answer.dataset.ping));

// --- drafts: what was not sent yet survives a closed browser --------------------------------------------------------

const fields = () => [...answer.elements].filter((field) => field.name && field.type !== "hidden");

function saveDraft() {
  if (sent) return;
  count();
  const values = {};
  for (const field of fields()) {
    if (field.type !== "radio") values[field.name] = field.value;
    else if (field.checked) values[field.name] = field.value;
  }
  try {
    localStorage.setItem(DRAFT + answer.dataset.draft, JSON.stringify({ values, active, at: Date.now() }));
  } catch { /* full or forbidden: drafts are a comfort */ }
}

function dropDrafts() {
  try {
    if (did === "answered") localStorage.removeItem(DRAFT + sessionStorage.getItem(SENT));
    for (const key of Object.keys(localStorage)) {
      const old = key.startsWith(DRAFT) && JSON.parse(localStorage.getItem(key));
      if (old && Date.now() - old.at > KEEP_MS) localStorage.removeItem(key);
    }
  } catch { /* forbidden, or damaged */ }
}

function loadDraft() {
  try {
    const draft = JSON.parse(localStorage.getItem(DRAFT + answer.dataset.draft) ?? "null");
    if (!draft) return;
    active = draft.active;
    for (const field of fields()) {
      if (!(field.name in draft.values)) continue;
      if (field.type === "radio") field.checked = field.value === draft.values[field.name];
      else field.value = draft.values[field.name];
    }
  } catch { /* damaged: as if there were none */ }
}

// --- views ---------------------------------------------------------------------------------------------------------

async function show(view) {
  const link = document.querySelector(`[data-show="${view}"]`);
  if (!link) return;
  say("Loading …");
  let page;
  try {
    const response = await fetch(link.href);
    page = new DOMParser().parseFromString(await response.text(), "text/html");
    if (!response.ok || !page.getElementById("texts")) throw new Error(response.statusText);
  } catch {
    say("The texts could not be loaded. Is the server running?");
    return;
  }
  const places = responses().map(share);
  const focused = document.activeElement?.closest("#conversation, #left, #right");
  texts().replaceWith(document.adoptNode(page.getElementById("texts")));
  responses().forEach((box, i) => scrollTo(box, places[i]));
  showAsks();
  if (focused) byId(focused.id).focus({ preventScroll: true });
  for (const one of document.querySelectorAll("[data-show]")) {
    one.toggleAttribute("aria-current", false);
    if (one.dataset.show === view) one.setAttribute("aria-current", "true");
  }
  say({ rendered: "Rendered texts.", raw: "Raw texts.", difference: "Words that differ are marked." }[view]);
}

const toggle = (view) => show(texts().dataset.view === view ? "rendered" : view);

// --- scrolling -------------------------------------------------------------------------------------------------------

const responses = () => ["left", "right"].map(byId);
const share = (box) => box.scrollTop / Math.max(1, box.scrollHeight - box.clientHeight);

function scrollTo(box, part) {
  box.scrollTop = part * (box.scrollHeight - box.clientHeight);
}

function showAsks() {
  byId("conversation").scrollTop = (byId("asks") ?? byId("conversation")).offsetTop - byId("conversation").offsetTop;
}

let together = false;
let moved = null; // the box that we moved ourselves last, and where to: that event is no wish of the reader

function scrolled(event) {
  const other = { left: "right", right: "left" }[event.target.id];
  if (!together || !other) return;
  const ours = moved?.box === event.target && moved.top === event.target.scrollTop;
  moved = null;
  if (ours) return;
  const box = byId(other);
  const before = box.scrollTop;
  scrollTo(box, share(event.target));
  if (box.scrollTop !== before) moved = { box, top: box.scrollTop };
}

function setTogether(on) {
  together = on;
  byId("together").setAttribute("aria-pressed", String(on));
  try {
    localStorage.setItem("annotate-together", on ? "1" : "");
  } catch { /* not remembered */ }
}

// --- keys ------------------------------------------------------------------------------------------------------------

function open(id) {
  const details = byId(id);
  details.open = !details.open;
  (details.open ? details.querySelector("select, textarea") : details.querySelector("summary")).focus();
}

const WORK = {
  u: () => {
    if (byId("undo")) byId("undo").requestSubmit();
    else if (answer) say("There is nothing to undo.");
  },
  f: () => byId("flagging") && open("flagging"),
  d: () => texts() && toggle("difference"),
  r: () => texts() && toggle("raw"),
  s: () => {
    if (!byId("together")) return;
    setTogether(!together);
    say(together ? "Both responses scroll together." : "Each response scrolls by itself.");
  },
  e: () => byId("attributes") && open("attributes"),
  n: () => document.querySelector("[name=tools]")?.focus(),
  "?": () => byId("keys")?.showModal(),
};

function choose(key) {
  const choice = byId(`choice-${key}`);
  if (!choice) return false;
  choice.checked = true;
  choice.focus({ preventScroll: true });
  saveDraft();
  say(`${choice.value}: Enter confirms.`);
  return true;
}

function confirm() {
  if (!answer) return byId("onward")?.click();
  if (!answer.checkValidity()) return say("Choose an answer first: 1 to 5, g, b or x.");
  answer.requestSubmit();
}

function pressed(event) {
  live();
  if (event.isComposing || event.altKey || byId("keys")?.open) return;
  const target = event.target;
  const typing = target.matches("textarea, select, input:not([type=radio])");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (typing && target.form) target.form.requestSubmit();
    else confirm();
  } else if (event.key === "Escape") {
    const details = target.closest("details#flagging, details#attributes");
    if (details) details.open = false;
    if (typing || details) (details?.querySelector("summary") ?? byId("main")).focus({ preventScroll: true });
  } else if (typing || event.ctrlKey || event.metaKey) {
    // Text fields keep their keys. Enter in one of a single line would send the form: a slip that costs an answer.
    if (event.key === "Enter" && target.matches("input") && answer) event.preventDefault();
  } else if (event.key === "Enter") {
    if (target.matches("a, button, summary")) return;
    event.preventDefault();
    confirm();
  } else if (event.key.length === 1) {
    const key = event.key.toLowerCase();
    if (event.repeat) return;
    if (answer && choose(key)) event.preventDefault();
    else if (Object.hasOwn(WORK, key)) {
      event.preventDefault();
      WORK[key]();
    }
  }
}

// --- together --------------------------------------------------------------------------------------------------------

dropDrafts();
if (texts()) showAsks();
if (answer) {
  loadDraft();
  addEventListener("input", saveDraft);
  addEventListener("pagehide", saveDraft);
  setInterval(count, 1000);
}
if (byId("together")) {
  try {
    setTogether(localStorage.getItem("annotate-together") === "1");
  } catch { /* not remembered */ }
  byId("together").addEventListener("click", WORK.s);
}
byId("ask-keys")?.addEventListener("click", WORK["?"]);
for (const link of document.querySelectorAll("[data-show]")) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    show(link.dataset.show);
  });
}
document.addEventListener("keydown", pressed);
document.addEventListener("scroll", scrolled, { capture: true, passive: true });
document.addEventListener("visibilitychange", count);
for (const sign of ["pointermove", "pointerdown", "wheel", "touchstart"]) {
  document.addEventListener(sign, live, { passive: true });
}
document.addEventListener("submit", (event) => {
  if (event.target.method !== "post") return;
  if (sent) {
    event.preventDefault();
    return say("This is being sent already.");
  }
  if (answer) saveDraft();
  sent = true;
  setTimeout(() => (sent = false), PATIENCE_MS);
  if (event.target !== answer) return;
  answer.elements.seconds.value = (active / 1000).toFixed(1);
  try {
    sessionStorage.setItem(SENT, answer.dataset.draft);
  } catch { /* the draft stays */ }
});
