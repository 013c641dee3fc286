'use strict';

// Decodes recorded messages as a client does. stdin: one WebSocket message per line, in hex; stdout:
// what each says, likewise.
//
// Argument: of a zlib-stream node (the zlib of Node.js), pako, fast-zlib or zlib-sync; of a zstd-stream
// node-zstd; payload where each message is a zlib stream of its own.
// Exits with 3 if that library could not be installed here, or this Node.js has no zstd.

const readline = require('node:readline');

const zlib = require('node:zlib');

// What each message makes come out of one of Node's own streams.
function streaming(stream) {
  let parts = [];
  stream.on('data', (part) => parts.push(part));
  stream.on('error', (error) => {
    throw error;
  });
  return (message) =>
    new Promise((resolve) => {
      parts = [];
      stream.write(message, () => setImmediate(() => resolve(Buffer.concat(parts))));
    });
}

const decoders = {
  node() {
    const flush = zlib.constants.Z_SYNC_FLUSH;
    return streaming(zlib.createInflate({ chunkSize: 65_536, flush }));
  },
  'node-zstd'() {
    if (!zlib.createZstdDecompress) process.exit(3);
    return streaming(zlib.createZstdDecompress({ chunkSize: 65_536 }));
  },
  payload() {
    return (message) => zlib.inflateSync(message);
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
    const { Inflate, Z_SYNC_FLUSH } = require('zlib-sync');
    const inflate = new Inflate({ chunkSize: 65_536 });
    return (message) => {
      inflate.push(message, Z_SYNC_FLUSH);
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
    const said = await decode(Buffer.from(line, 'hex'));
    process.stdout.write(`${said.toString('hex')}\n`);
  }
  // No process.exit() here: it would drop what a slow reader has not taken from the pipe yet.
}

main();
