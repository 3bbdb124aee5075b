// Parses AsyncAPI documents with the official parser, and prints one line of JSON for each: what the parser says of it.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const parser = new Parser();
for (const path of process.argv.slice(2)) {
  const { document, diagnostics } = await parser.parse(readFileSync(path, "utf8"), { source: path });
  console.log(
    JSON.stringify({
      operations: document === undefined ? null : document.operations().map((operation) => operation.id()),
      diagnostics: diagnostics.map(({ code, severity, message, path }) => ({ code, severity, message, path })),
    }),
  );
}
