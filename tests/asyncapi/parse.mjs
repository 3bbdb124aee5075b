// Parses an AsyncAPI document with the official parser, and prints as JSON what the parser says of it.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const [path] = process.argv.slice(2);
const { document, diagnostics } = await new Parser().parse(readFileSync(path, "utf8"), { source: path });
console.log(
  JSON.stringify({
    operations: document === undefined ? null : document.operations().map((operation) => operation.id()),
    diagnostics: diagnostics.map(({ code, severity, message, path }) => ({ code, severity, message, path })),
  }),
);
