// The page of VMs: champions, figures over time, the FM's value, and lineage both ways.

import { chart } from "./chart.js";
import { ask, byId, el, instant, number, percent, projects, say } from "./common.js";

const HIDDEN = new Set(["kd", "raw", "counters", "world_vm", "world_state", "world_p", "challenger"]);
let project = "";

async function show(name) {
  project = name;
  const found = await ask(`projects/${name}/vms`);
  byId("verticals").replaceChildren(...found.verticals.map(vertical));
  byId("part").value = found.newest ?? "";
  byId("fed").replaceChildren();
}

function vertical(found) {
  const lineage = el("div", { class: "lineage", "aria-live": "polite", tabindex: "-1" });
  return el("section", { class: "vertical", "aria-label": found.name },
    el("h2", {}, `${found.name} `, el("code", {}, found.model)),
    staleness(found),
    value(found.value),
    charts(found.series),
    versions(found, lineage),
    lineage);
}

function staleness({ champion, staleness: age }) {
  if (champion === null) return el("p", {}, "No champion yet.");
  const since = (count, part, what) => (part === undefined ? null : `${what} ${part}, ${count} partitions ago`);
  return facts([
    ["champion", `version ${champion}`],
    ["trained", since(age.partitions_since, age.trained_until, "until")],
    ["its FM has seen", since(age.partitions_since_fm, age.fm_cutoff, "up to")],
    ["histories are", `${age.history_hours.toFixed(1)} hours old on average when an example reads them`],
  ]);
}

function value(lines) {
  const shown = lines.length ? lines.map((line) => el("li", {}, line)) : [el("li", {}, "No comparison of arms yet.")];
  return el("div", {}, el("h3", {}, "What the FM is worth"), el("ul", { class: "value" }, shown));
}

function charts(series) {
  const made = [
    ["NE, lower is better", series.ne, (number) => number.toFixed(4)],
    ["Transfer ratio, the share of the FM's gain that an arm keeps", series.tr, (share) => percent(share, 0)],
    ["Calibration, sum of predictions over sum of labels", series.calibration, (number) => number.toFixed(3)],
  ].filter(([, lines]) => lines.length);
  return el("div", { class: "charts" }, made.map(([title, lines, format]) => chart(title, lines, { hidden: HIDDEN, format })));
}

function versions(found, lineage) {
  if (!found.versions.length) return el("p", {}, "No version is registered yet.");
  const titles = ["version", "arm", "space", "trained until", "gate", "commit", "registered", ""];
  const body = found.versions.map((version) => el("tr", {},
    el("td", {}, version.version, " ", ...badges(version.aliases)),
    el("td", {}, version.arm ?? "-"), el("td", {}, el("code", {}, version.space ?? "-")), el("td", {}, version.trained_until ?? "-"),
    el("td", {}, gate(version.gate)), el("td", {}, el("code", {}, version.commit ?? "-")), el("td", {}, instant(version.created_at)),
    el("td", {}, el("button", { type: "button", "aria-label": `Lineage of ${found.name} version ${version.version}`,
      on: { click: () => showLineage(found.name, version.version, lineage) } }, "Lineage"))));
  return el("div", {}, el("h3", {}, "Versions"), el("table", {}, el("tr", {}, titles.map((title) => el("th", {}, title))), body));
}

const badges = (aliases) => aliases.map((alias) => el("span", { class: `badge ${alias}` }, alias));
const gate = (found) => (found === null ? "-" : el("span", { title: found.reasons }, el("span", { class: `badge ${found.verdict}` }, found.verdict), found.reasons));

async function showLineage(name, version, holder) {
  holder.replaceChildren(el("p", {}, "Loading"));
  try {
    holder.replaceChildren(lineagePanel(name, await ask(`projects/${project}/lineage`, { vertical: name, version })));
  } catch (error) {
    holder.replaceChildren(el("p", { class: "error" }, error.message));
  }
  holder.focus();
}

function lineagePanel(name, { vm, space, fm }) {
  return el("div", { class: "panel" },
    el("h3", {}, `Lineage of ${name} version ${vm.version}`),
    el("ol", { class: "chain" },
      el("li", {}, el("strong", {}, `VM ${vm.model} version ${vm.version} `), ...badges(vm.aliases), model(vm, [["arm", vm.arm], ["settings", vm.config]])),
      el("li", {}, el("strong", {}, "Delta versions it read"), tables(vm.tables)),
      el("li", {}, el("strong", {}, "Space"), space === null ? el("p", {}, "no longer registered") : spaceFacts(space)),
      el("li", {}, el("strong", {}, "FM"), fm === null ? el("p", {}, "no longer registered") : el("div", {}, `${fm.model} version ${fm.version} `, ...badges(fm.aliases), model(fm, []), tables(fm.tables)))));
}

function model(found, more) {
  const window = (name) => (found.windows[name] ? found.windows[name].join(" .. ") : "not recorded");
  return facts([["run", found.run_id], ["commit", found.commit], ["seed", found.seed], ...more,
    ["trained on", window("train")], ["validated on", window("validation")]]);
}

function spaceFacts(space) {
  return facts([["id", `${space.id} (${space.state})`], ["FM has seen up to", space.cutoff], ["inputs", space.inputs_id],
    ["captured layers", space.captures.join(", ")], ["vector", space.vector], ["FM's file", space.model_digest.slice(0, 16)]]);
}

function tables(found) {
  const titles = ["read as", "table", "version", "partitions", "rows", "written again since"];
  const body = found.map((table) => el("tr", {}, el("td", {}, table.name),
    el("td", {}, el("code", {}, [table.table, ...Object.values(table.scope)].join(" "))),
    el("td", { class: "number" }, table.version), el("td", { class: "number" }, table.partitions || "-"),
    el("td", { class: "number" }, table.rows ? number(table.rows) : "-"),
    el("td", {}, table.partitions ? table.rewritten.join(", ") || "none" : "-")));
  return el("table", {}, el("tr", {}, titles.map((title) => el("th", {}, title))), body);
}

function facts(rows) {
  const known = rows.filter(([, value]) => value !== null && value !== undefined);
  return el("dl", {}, known.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]));
}

async function showFed(event) {
  event.preventDefault();
  try {
    const models = await ask(`projects/${project}/fed`, { part: byId("part").value.trim() });
    const titles = ["model", "version", "as", "space", "run", "Delta versions read"];
    const body = models.map((found) => el("tr", {}, el("td", {}, found.model), el("td", {}, found.version, " ", ...badges(found.aliases)),
      el("td", {}, found.role), el("td", {}, el("code", {}, found.space ?? "-")), el("td", {}, el("code", {}, found.run_id)),
      el("td", {}, Object.entries(found.tables).map(([table, version]) => `${table} ${version}`).join(", "))));
    byId("fed").replaceChildren(models.length
      ? el("table", {}, el("tr", {}, titles.map((title) => el("th", {}, title))), body)
      : el("p", {}, "It fed no registered model."));
  } catch (error) {
    byId("fed").replaceChildren(el("p", { class: "error" }, error.message));
  }
}

byId("fed-form").addEventListener("submit", showFed);
projects(show).catch((error) => say(error.message, true));
