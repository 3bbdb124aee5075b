// What must be reported, on the disk: a file for each run, a line for each fact. One process may use a folder.

import fs from 'node:fs';
import path from 'node:path';

const SUFFIX = '.jsonl';

export class Journal {
  constructor(file) {
    this.file = file;
  }

  /** The journals that processes which have died left in a folder. */
  static left(folder) {
    return fs
      .readdirSync(folder)
      .filter((name) => name.endsWith(SUFFIX))
      .map((name) => new Journal(path.join(folder, name)));
  }

  static of(folder, runId) {
    return new Journal(path.join(folder, runId + SUFFIX));
  }

  /** Write a fact; it is on the disk when this returns. */
  write(fact) {
    const isNew = !fs.existsSync(this.file);
    const file = fs.openSync(this.file, 'a');
    fs.writeSync(file, JSON.stringify(fact) + '\n');
    fs.fsyncSync(file);
    fs.closeSync(file);
    if (isNew) {
      const folder = fs.openSync(path.dirname(this.file), 'r');
      fs.fsyncSync(folder); // so that the name is on the disk, too
      fs.closeSync(folder);
    }
  }

  /** All facts. A crash may have cut the last line: what it says had not been done yet. */
  facts() {
    const lines = fs.readFileSync(this.file, 'utf8').split('\n').slice(0, -1);
    return lines.map((line) => JSON.parse(line));
  }

  remove() {
    fs.rmSync(this.file);
  }
}
