// The form: reads it, has the texts ranked, shows what came of it.

import { CallError, MOST_LISTED, endpoint, rank } from "./call.js";
import { documents as exampleDocuments, queries as exampleQueries } from "./example.js";
import { element, showCode, showFacts, showResults } from "./results.js";
import { curl, python } from "./snippets.js";
import { splitDocuments } from "./texts.js";

const $ = (id) => document.getElementById(id);
const FIELDS = ["query", "documents", "key"];
const code = {};
let running = null;

function readDocuments() {
  return splitDocuments($("documents").value, $("form").elements.split.value);
}

function countDocuments() {
  const { length } = readDocuments();
  $("count").textContent = length ? `${counted(length)}.` : "No document yet.";
}

function counted(n) {
  return n === 1 ? "1 document" : `${n.toLocaleString("en")} documents`;
}

function loadExample(query) {
  $("query").value = query.text;
  $("documents").value = exampleDocuments.join("\n");
  $("form").elements.split.value = "line";
  countDocuments();
  forgetOutcome(`The example is loaded: ${counted(exampleDocuments.length)} in 13 scripts.`);
}

function forgetOutcome(status) {
  for (const field of FIELDS) {
    $(field).removeAttribute("aria-invalid");
    $(`${field}-error`).hidden = true;
    $(`${field}-error`).textContent = ""; // what describes a field is read out even if hidden
  }
  $("failure").hidden = true;
  $("answer").hidden = true;
  $("status").textContent = status;
}

// What is wrong, beside the field that mends it, or else in the ranking's place.
function showFailure(message, field) {
  const place = field ? $(`${field}-error`) : $("failure");
  forgetOutcome("Nothing is ranked.");
  if (field === "key") $("access").open = true;
  place.hidden = false;
  place.textContent = message;
  if (field) {
    $(field).setAttribute("aria-invalid", "true");
    $(field).focus();
  } else reveal();
}

// On a narrow screen, the ranking is under the form.
function reveal() {
  const outcome = $("outcome");
  if (outcome.getBoundingClientRect().top > innerHeight / 2) outcome.scrollIntoView();
}

async function submit(event) {
  event.preventDefault();
  const query = $("query").value;
  const documents = readDocuments();
  const key = $("key").value.trim();
  if (!query.trim()) return showFailure("Enter a query.", "query");
  if (!documents.length) return showFailure("Enter documents, or load an example.", "documents");
  if (/[^!-~]/.test(key)) {
    return showFailure("A key has no spaces, and only letters, digits and signs of ASCII.", "key");
  }
  running?.abort();
  const own = (running = new AbortController());
  forgetOutcome(`Ranking ${counted(documents.length)}…`);
  $("stop").hidden = false;
  const body = { query, documents, return_documents: false };
  try {
    showAnswer(await rank(body, key, own.signal), body, Boolean(key));
  } catch (error) {
    if (running !== own) return;
    if (own.signal.aborted) forgetOutcome("Stopped.");
    else if (error instanceof CallError) {
      showFailure(error.message, error.status === 401 ? "key" : null);
    } else throw error;
  } finally {
    if (running === own) {
      running = null;
      if (document.activeElement === $("stop")) $("rank").focus();
      $("stop").hidden = true;
    }
  }
}

function showAnswer(answer, body, withKey) {
  const { results, cut, times } = answer;
  showResults($("results"), $("more"), results, body.documents, cut);
  showFacts($("facts"), [
    ["Model", answer.model],
    ["Tokens", answer.tokens.toLocaleString("en")],
    ["Round trip", milliseconds(answer.roundTrip)],
    ["Tokenising", milliseconds(times.tokenize)],
    ["Waiting", milliseconds(times.queue)],
    ["Model run", milliseconds(times.forward)],
  ]);
  code.python = python(endpoint, body, withKey);
  code.curl = curl(endpoint, body, withKey);
  showCode($("python"), code.python);
  showCode($("curl"), code.curl);
  $("key-note").hidden = !withKey;
  $("answer").hidden = false;
  const [best] = results;
  $("status").textContent =
    `Ranked ${counted(results.length)} in ${milliseconds(answer.roundTrip)}. ` +
    `Best: document ${best.index + 1}, with a score of ${best.score.toFixed(4)}. ${cutSentence(cut)}`;
  reveal();
}

function cutSentence(cut) {
  if (!cut.length) return "None was cut.";
  const atLeast = cut.length === MOST_LISTED ? "At least " : "";
  return `${atLeast}${counted(cut.length)} ${cut.length === 1 ? "was" : "were"} cut.`;
}

function milliseconds(value) {
  if (value === undefined) return "not told";
  return `${value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en")} ms`;
}

async function copy(button) {
  const text = code[button.dataset.copy];
  const said = button.parentElement.querySelector(".copied");
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    done = copyByEvent(text);
  }
  said.textContent = done ? "Copied." : "The browser does not allow it. Select the code, and copy it.";
}

// For pages that are neither from https nor from this machine: browsers give them no clipboard.
function copyByEvent(text) {
  const fill = (event) => {
    event.preventDefault();
    event.clipboardData.setData("text/plain", text);
  };
  document.addEventListener("copy", fill, { once: true });
  const done = document.execCommand("copy");
  document.removeEventListener("copy", fill);
  return done;
}

$("form").addEventListener("submit", submit);
$("form").addEventListener("input", countDocuments);
$("documents").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
$("stop").addEventListener("click", () => running?.abort());
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copy(button));
}
for (const query of exampleQueries) {
  const button = element("button", { type: "button", lang: query.lang, textContent: query.name });
  button.addEventListener("click", () => loadExample(query));
  $("examples").append(button, " ");
}
countDocuments();
