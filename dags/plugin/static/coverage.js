// The page of the coverage grid: rows of tables, details of a cell, the command that fills a gap.

import { ask, byId, el, instant, number, percent, projects, runLink, say, versions } from "./common.js";
import { Grid, pager } from "./grid.js";

const LEGEND = [
  ["done", "done"], ["running", "running"], ["missing", "missing"], ["stale", "stale"], ["failed", "failed"],
  ["outside", "not this space's"], ["q1", "quarantined, up to ¼ of the limit"], ["q2", "up to ½"],
  ["q3", "up to the limit"], ["q4", "above it"],
];
const QUARANTINE = { table: "examples", scope: {}, label: "quarantined share", space: null };
let answer = null;
let project = "";

const grid = new Grid(byId("grid"), byId("map"), { onOpen: openCell, onSelect: showGap, onMove: showExtent });
pager(grid);

function tableRow(table, previous) {
  const states = [];
  table.ranges.forEach(([from, count, state, reason]) => {
    for (let place = from; place < from + count; place += 1) states[place] = { state, reason };
  });
  const own = answer.parts.length - (table.counts.outside ?? 0);
  return {
    table,
    name: table.label,
    count: `${table.counts.done ?? 0}/${own}`,
    startsSpace: previous !== undefined && previous.space !== table.space,
    runs: table.ranges.map(([from, count, state]) => [from, count, state]),
    cell: (place) => {
      const { state, reason } = states[place];
      return { state, style: state, text: reason ? `${state}: ${reason}` : state };
    },
  };
}

function quarantineRow() {
  const { shares, limit } = answer.quarantine;
  const style = (share) => {
    if (share === null) return "none";
    if (share === 0) return "q0";
    return ["q1", "q2", "q3"].find((_, index) => share <= (limit * [0.25, 0.5, 1][index])) ?? "q4";
  };
  const worst = shares.reduce((most, share) => Math.max(most, share ?? 0), 0);
  return {
    table: QUARANTINE,
    name: QUARANTINE.label,
    count: `most ${percent(worst)}`,
    startsSpace: false,
    runs: shares.map((share, place) => [place, 1, style(share)]),
    cell: (place) => ({
      state: "quarantine",
      style: style(shares[place]),
      text: shares[place] === null ? "nothing ingested" : `${percent(shares[place])} rejected, limit ${percent(limit)}`,
    }),
  };
}

function rows() {
  const wanted = byId("space").value;
  const tables = answer.tables.filter((table) => table.space === null || wanted === "" || table.space === wanted);
  const made = tables.map((table, index) => tableRow(table, tables[index - 1]));
  made.splice(1, 0, quarantineRow());
  return made;
}

function showExtent(start, width) {
  const { parts } = answer;
  byId("extent").textContent = `${parts[start]} .. ${parts[start + width - 1]} (${width} of ${parts.length})`;
  byId("first").disabled = byId("older").disabled = start === 0;
  byId("last").disabled = byId("newer").disabled = start + width >= parts.length;
}

function showGap(row, from, to) {
  byId("gap").hidden = row === null;
  if (row === null) return;
  const counts = {};
  for (let place = from; place <= to; place += 1) {
    const { state } = row.cell(place);
    counts[state] = (counts[state] ?? 0) + 1;
  }
  const [first, last] = [answer.parts[from], answer.parts[to]];
  const states = Object.entries(counts).map(([state, count]) => `${count} ${state}`).join(", ");
  byId("selected").textContent = `${row.name}, ${first === last ? first : `${first} .. ${last}`}: ${states}`;
  const space = row.table.space ? ` --space ${row.table.space}` : "";
  byId("backfill").textContent = `${answer.backfill} --from ${first} --to ${last}${space}`;
}

async function openCell(row, place) {
  const part = answer.parts[place];
  const scope = JSON.stringify(row.table.scope);
  const detail = byId("detail");
  detail.hidden = false;
  detail.replaceChildren(el("p", {}, "Loading"));
  try {
    const found = await ask(`projects/${project}/partition`, { table: row.table.table, scope, part });
    detail.replaceChildren(...partitionDetail(found));
    const fed = await ask(`projects/${project}/fed`, { part });
    detail.append(...fedDetail(fed));
  } catch (error) {
    detail.append(el("p", { class: "error" }, error.message));
  }
}

function partitionDetail(found) {
  const title = [found.table, ...Object.values(found.scope), found.part].join(" ");
  const attempts = found.attempts.map(attemptDetail);
  return [
    el("h2", {}, title),
    el("p", {}, found.reason ? `${found.state}: ${found.reason}` : found.state),
    ...(found.upstream.length ? [el("p", { class: "quiet" }, `depends on ${found.upstream.map(span).join(", ")}`)] : []),
    ...rejects(found.rejects),
    ...(attempts.length ? attempts : [el("p", {}, "The ledger has no attempt at it.")]),
  ];
}

const span = ([table, first, last]) => `${table} ${first === last ? first : `${first} .. ${last}`}`;

function rejects(found) {
  const reasons = Object.entries(found).sort((a, b) => b[1] - a[1]);
  if (!reasons.length) return [];
  const body = reasons.map(([reason, count]) => el("tr", {}, el("td", {}, reason), el("td", { class: "number" }, number(count))));
  return [el("h3", {}, "Quarantine"), el("table", {}, el("tr", {}, el("th", {}, "reason"), el("th", {}, "rows")), body)];
}

function attemptDetail(attempt) {
  const facts = [
    ["run", runLink(attempt.run_id)],
    ["step", `${attempt.step}, version ${attempt.step_version}, settings ${attempt.definition}`],
    ["Delta version written", attempt.version_written ?? "none"],
    ["Delta versions read", versions(attempt.versions_read)],
    ["rows", `${number(attempt.rows)}, ${number(attempt.rejected)} rejected`],
    ["checks", attempt.message || (attempt.state === "done" ? "passed" : "-")],
    ["files' digest", attempt.digest || "-"],
    ["commit of the code", attempt.commit],
    ["began, ended", `${instant(attempt.started_at)}, ${attempt.state === "running" ? "-" : instant(attempt.computed_at)}`],
  ];
  return el("div", { class: "panel attempt" },
    el("h3", {}, `Attempt ${attempt.attempt}: ${attempt.state}`),
    el("dl", {}, facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value instanceof Node ? value : String(value))])));
}

function fedDetail(models) {
  if (!models.length) return [el("h3", {}, "Fed no registered model")];
  return [el("h3", {}, "Fed these models"), el("ul", {}, models.map((model) => el("li", {},
    `${model.model} version ${model.version}`, ...model.aliases.map((alias) => el("span", { class: `badge ${alias}` }, alias)),
    ` as ${model.role}`)))];
}

async function show(name) {
  project = name;
  answer = await ask(`projects/${name}/coverage`);
  if (!answer.parts.length) throw new Error(`${answer.project}: nothing ingested yet`);
  const chosen = byId("space").value;
  byId("space").replaceChildren(el("option", { value: "" }, "all"),
    ...answer.spaces.map((space) => el("option", { value: space.id }, `${space.id} (${space.state}, from ${space.cutoff})`)));
  if (answer.spaces.some((space) => space.id === chosen)) byId("space").value = chosen;
  byId("content").hidden = false;
  byId("gap").hidden = byId("detail").hidden = true;
  grid.show(rows(), answer.parts);
}

byId("legend").append(...LEGEND.map(([style, text]) => el("li", {}, el("span", { class: `cell s-${style}`, "aria-hidden": "true" }), text)));
byId("space").addEventListener("change", () => grid.show(rows(), answer.parts));
byId("copy").addEventListener("click", async () => {
  const line = byId("backfill");
  try {
    await navigator.clipboard.writeText(line.textContent);
    byId("copy").textContent = "Copied";
    setTimeout(() => { byId("copy").textContent = "Copy"; }, 1500);
  } catch {
    getSelection().selectAllChildren(line);
  }
});
new MutationObserver(() => grid.drawMap()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
projects(show).catch((error) => say(error.message, true));
