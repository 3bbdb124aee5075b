// Makes one HTML file, which loads nothing from elsewhere, of an AsyncAPI document.
import Generator from "@asyncapi/generator";

const [document, folder] = process.argv.slice(2);
const options = { forceWrite: true, templateParams: { singleFile: "true" } };
await new Generator("@asyncapi/html-template", folder, options).generateFromFile(document);
