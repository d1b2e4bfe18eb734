// The ranking as a list with bars. Texts of users are text nodes, never markup.

const FIRST_ROWS = 100;
const FIRST_CHARACTERS = 700;
const FIRST_OF_CODE = 20_000;

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// `rest` is the paragraph for the button that shows the rows after the first hundred.
export function showResults(list, rest, rows, documents, cut) {
  const isCut = new Set(cut);
  const item = (row) => resultItem(row, documents[row.index], isCut.has(row.index));
  list.replaceChildren(...rows.slice(0, FIRST_ROWS).map(item));
  const hidden = rows.slice(FIRST_ROWS);
  rest.hidden = hidden.length === 0;
  rest.replaceChildren(
    moreButton(`Show the other ${hidden.length} documents`, () => {
      const items = hidden.map(item);
      list.append(...items);
      rest.hidden = true;
      focusOn(items[0]);
    }),
  );
}

export function showFacts(list, facts) {
  list.replaceChildren(
    ...facts.map(([name, value]) =>
      element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value })),
    ),
  );
}

// Each string of the code is set apart, so that one from right to left does not turn its line.
export function showCode(block, code) {
  const parts = code.slice(0, FIRST_OF_CODE).split(/("(?:[^"\\]|\\.)*")/);
  block.replaceChildren(...parts.map((part, i) => (i % 2 ? element("bdi", {}, part) : part)));
  const hidden = code.length - FIRST_OF_CODE;
  if (hidden > 0) {
    block.append(element("em", {}, `\n\n${hidden.toLocaleString("en")} more characters: Copy has them all.`));
  }
}

function resultItem({ index, score }, text, isCut) {
  const bar = element("span", { className: "bar" });
  bar.style.width = `${100 * score}%`;
  const track = element("span", { className: "track" }, bar);
  track.setAttribute("aria-hidden", "true");
  const head = element(
    "p",
    { className: "head" },
    element("span", { className: "visually-hidden", textContent: "Score " }),
    element("span", { className: "score", textContent: score.toFixed(4) }),
    track,
    element("span", { className: "origin", textContent: `document ${index + 1}` }),
  );
  const item = element("li", {}, head, textParagraph(text));
  if (isCut) {
    const mark = element("strong", { textContent: "Cut" });
    const why = " Together with the query, this is over the model’s limit. Its end was not read.";
    item.append(element("p", { className: "cut" }, mark, why));
  }
  return item;
}

function textParagraph(text) {
  const paragraph = element("p", { className: "text", dir: "auto" });
  const characters = text.length > FIRST_CHARACTERS ? Array.from(text) : [];
  if (characters.length <= FIRST_CHARACTERS) {
    paragraph.textContent = text;
    return paragraph;
  }
  const all = moreButton(`Show all ${characters.length.toLocaleString("en")} characters`, () => {
    paragraph.textContent = text;
    focusOn(paragraph);
  });
  paragraph.append(`${characters.slice(0, FIRST_CHARACTERS).join("")}… `, all);
  return paragraph;
}

function moreButton(label, action) {
  const button = element("button", { type: "button", className: "more", textContent: label });
  button.addEventListener("click", action);
  return button;
}

// The button that had the focus is gone.
function focusOn(target) {
  target.tabIndex = -1;
  target.focus();
}
