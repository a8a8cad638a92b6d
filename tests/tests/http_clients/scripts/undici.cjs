// Many requests at once, bodies in pieces both ways, and an answer that is given up, in each version.
const { subscribe } = require('node:diagnostics_channel');
const { Readable } = require('node:stream');
const { Agent, request } = require('undici');

const LARGE = Buffer.alloc(8 << 20, Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)));

function* pieces() {
  for (let start = 0; start < LARGE.length; start += 50_000) yield LARGE.subarray(start, start + 50_000);
}

const spoken = new Set();
subscribe('undici:client:connected', ({ socket }) => spoken.add(socket.alpnProtocol || 'none'));

async function main(base, allowH2) {
  // One stream at a time on each: with more, undici 6 stumbles over itself.
  const dispatcher = new Agent({ allowH2, connections: 4 });
  const ask = async (path, options) => {
    const answer = await request(base + path, { dispatcher, method: 'POST', ...options });
    return Buffer.from(await answer.body.arrayBuffer());
  };
  const asked = Array.from({ length: 100 }, (_, index) => ask('/echo', { body: `${index}` }));
  console.log((await Promise.all(asked)).every((body, index) => body.toString() === `${index}`));
  console.log((await ask('/echo', { body: Readable.from(pieces()) })).equals(LARGE));
  const giveUp = new AbortController();
  const { body } = await request(base + '/wait', { dispatcher, signal: giveUp.signal });
  try {
    for await (const piece of body) {
      console.log(piece.toString());
      giveUp.abort();
    }
  } catch (error) {
    console.log(error.name);
  }
  console.log((await ask('/echo', { body: 'another' })).toString());
  console.log([...spoken].join());
  await dispatcher.destroy();
}

main(process.argv[2], process.argv[3] === 'h2');
