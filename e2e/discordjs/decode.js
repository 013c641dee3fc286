'use strict';

// Decodes a recorded zlib-stream as a client does. stdin: one WebSocket message per line, in hex;
// stdout: what each says, one JSON string per line.
//
// Argument: node (the zlib of Node.js), pako, fast-zlib or zlib-sync.
// Exits with 3 if that library could not be installed here.

const readline = require('node:readline');

const decoders = {
  node() {
    const { constants, createInflate } = require('node:zlib');
    const inflate = createInflate({ chunkSize: 65_536, flush: constants.Z_SYNC_FLUSH });
    let parts = [];
    inflate.on('data', (part) => parts.push(part));
    inflate.on('error', (error) => {
      throw error;
    });
    return (message) =>
      new Promise((resolve) => {
        parts = [];
        inflate.write(message, () => setImmediate(() => resolve(Buffer.concat(parts))));
      });
  },
  pako() {
    const { Inflate, Z_SYNC_FLUSH } = require('pako');
    const inflate = new Inflate({ chunkSize: 65_536 });
    let parts = [];
    inflate.onData = (part) => parts.push(Buffer.from(part));
    return (message) => {
      parts = [];
      inflate.push(message, Z_SYNC_FLUSH);
      if (inflate.err) throw new Error(`pako: ${inflate.err} ${inflate.msg}`);
      return Buffer.concat(parts);
    };
  },
  'fast-zlib'() {
    const { Inflate } = require('fast-zlib');
    const inflate = new Inflate();
    return (message) => inflate.process(message);
  },
  // eris, older discord.js.
  'zlib-sync'() {
    const zlib = require('zlib-sync');
    const inflate = new zlib.Inflate({ chunkSize: 65_536 });
    return (message) => {
      inflate.push(message, zlib.Z_SYNC_FLUSH);
      if (inflate.err) throw new Error(`zlib-sync: ${inflate.err} ${inflate.msg}`);
      return inflate.result;
    };
  },
};

async function main() {
  let decode;
  try {
    decode = decoders[process.argv[2]]();
  } catch (error) {
    if (error.code !== 'MODULE_NOT_FOUND') throw error;
    process.exit(3);
  }
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const text = (await decode(Buffer.from(line, 'hex'))).toString('utf8');
    process.stdout.write(`${JSON.stringify(text)}\n`);
  }
  // No process.exit() here: it would drop what a slow reader has not taken from the pipe yet.
}

main();
