// A pasted text to documents. Knows no page.

// Lines, or blocks of lines with blank ones between. What is in a line or block stays as it is.
export function splitDocuments(text, by) {
  const parts = by === "line" ? text.split("\n") : text.split(/\n(?:[^\S\n]*\n)+/);
  return parts.filter((part) => part.trim()).map((part) => part.replace(/^\n+|\n+$/g, ""));
}
