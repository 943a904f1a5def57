// What both pages share: questions to the server, elements, the theme of Airflow's own UI, links out of the frame.

/** An element with attributes, listeners (on: {click: ...}) and children; text children are never parsed as HTML. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") Object.entries(value).forEach(([event, handler]) => made.addEventListener(event, handler));
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

export function say(text, isError = false) {
  const message = byId("message");
  message.textContent = text;
  message.classList.toggle("error", isError);
}

/** The answer to a question below api/; the server's own message is the error's. */
export async function ask(path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  const answer = await fetch(`api/${path}${query ? `?${query}` : ""}`, { credentials: "same-origin" });
  if (answer.status === 401) throw new Error("Your login has ended: reload the page and log in again.");
  const found = await answer.json().catch(() => ({ detail: answer.statusText }));
  if (!answer.ok) throw new Error(typeof found.detail === "string" ? found.detail : JSON.stringify(found.detail));
  return found;
}

/** Fill the list of projects, keep the chosen one in the address, and call show(project) on every change. */
export async function projects(show) {
  const select = byId("project");
  const found = await ask("projects");
  const wanted = new URLSearchParams(location.search).get("project");
  select.replaceChildren(...found.map((file) => el("option", { value: file.name }, file.name)));
  const usable = found.find((file) => file.name === wanted) ?? found.find((file) => !file.error) ?? found[0];
  const open = async () => {
    const file = found.find((other) => other.name === select.value);
    const address = new URL(location.href);
    address.searchParams.set("project", file.name);
    history.replaceState(null, "", address);
    byId("other").search = address.search;
    byId("content").hidden = true;
    if (file.error) return say(file.error, true);
    say("Loading");
    try {
      await show(file.name);
      say("");
      byId("content").hidden = false;
    } catch (error) {
      say(error.message, true);
    }
  };
  if (!usable) return say("No YAML file in the projects' folder.", true);
  select.value = usable.name;
  select.addEventListener("change", open);
  byId("refresh").addEventListener("click", open);
  await open();
}

/** The run that a ledger row names: a link where Airflow made it (DAG/RUN/TASK, a mapped task's with /INDEX), else its name
 * alone. */
export function runLink(runId) {
  const [dag, run, task, index] = runId.split("/");
  if (!run) return el("code", {}, runId);
  const steps = [...(task ? ["tasks", task] : []), ...(index ? ["mapped", index] : [])];
  const path = ["dags", dag, "runs", run, ...steps].map(encodeURIComponent).join("/");
  const href = new URL(`../${path}`, location.href).href;
  return el("a", { href, class: "run", on: { click: leaveFrame } }, runId.replaceAll("/", " · "));
}

// The frame may not navigate the page around it, but that page's own links may.
function leaveFrame(event) {
  if (window.parent === window) return;
  event.preventDefault();
  const outer = window.parent.document;
  const link = outer.createElement("a");
  link.href = event.currentTarget.href;
  outer.body.append(link);
  link.click();
  link.remove();
}

export const instant = (ms) => (ms ? new Date(ms).toISOString().slice(0, 19).replace("T", " ") + " UTC" : "-");
export const number = (value) => value.toLocaleString("en-US");
export const percent = (share, digits = 2) => `${(100 * share).toFixed(digits)} %`;
export const versions = (read) =>
  Object.entries(read).map(([table, version]) => `${table} ${version}`).join(", ") || "none";

/** Follow Airflow's own theme inside its frame, the system's outside. */
function followTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const outer = window.parent === window ? null : window.parent.document.documentElement;
  const apply = () => {
    const named = outer && ["dark", "light"].find((name) => outer.classList.contains(name));
    document.documentElement.dataset.theme = named ?? (system.matches ? "dark" : "light");
  };
  apply();
  system.addEventListener("change", apply);
  if (outer) new MutationObserver(apply).observe(outer, { attributes: true, attributeFilter: ["class"] });
}

followTheme();
