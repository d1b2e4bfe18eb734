// The page's call as code that others can run. Knows no page; a key never gets into it.

// Most systems take 131,072 bytes as one argument of a command.
const LONGEST_ARGUMENT = 100_000;

// A JSON string is a Python string too. Characters that turn the direction of a line, or end it, are
// written as escapes: code must look like what it does.
function quote(text) {
  return JSON.stringify(text).replace(
    /[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g,
    (character) => "\\u" + character.charCodeAt(0).toString(16).padStart(4, "0"),
  );
}

const shellQuote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function curl(url, { query, documents }, withKey) {
  const json =
    `{"query": ${quote(query)}, "documents": [${documents.map(quote).join(", ")}], ` +
    `"return_documents": false}`;
  const lines = [`curl -sS ${shellQuote(url)}`, "-H 'Content-Type: application/json'"];
  if (withKey) lines.push('-H "Authorization: Bearer $POLYRANK_API_KEY"');
  if (new TextEncoder().encode(json).length < LONGEST_ARGUMENT) {
    lines.push(`-d ${shellQuote(json)}`);
  } else {
    // Interactive shells may take a ! here for their history.
    lines.push(`--data-binary @- <<'JSON'\n${json.replaceAll("!", "\\u0021")}\nJSON`);
  }
  return lines.join(" \\\n  ");
}

export function python(url, { query, documents }, withKey) {
  const headers = ['"Content-Type": "application/json"'];
  if (withKey) headers.push('"Authorization": "Bearer " + os.environ["POLYRANK_API_KEY"]');
  return `import json
${withKey ? "import os\n" : ""}import urllib.request

query = ${quote(query)}
documents = [
${documents.map((text) => `    ${quote(text)},`).join("\n")}
]
request = urllib.request.Request(
    ${quote(url)},
    data=json.dumps(
        {"query": query, "documents": documents, "return_documents": False}
    ).encode(),
    headers={
${headers.map((header) => `        ${header},`).join("\n")}
    },
)
with urllib.request.urlopen(request) as response:
    answer = json.load(response)
for row in answer["results"]:
    print(row["relevance_score"], "document", row["index"] + 1)
`;
}
