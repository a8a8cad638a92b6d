// Node's own HTTP/2: trailers both ways, a ping, streams that end early, and another authority on one connection.
const http2 = require('node:http2');

const LARGE = Buffer.alloc(8 << 20, Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)));
const { NGHTTP2_CANCEL } = http2.constants;

function ask(session, head, body, trailers) {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ':method': 'POST', ...head }, { waitForTrailers: Boolean(trailers) });
    const answer = { pieces: [] };
    stream.on('wantTrailers', () => stream.sendTrailers(trailers));
    stream.on('response', (fields) => Object.assign(answer, { status: fields[':status'] }));
    stream.on('trailers', (fields) => Object.assign(answer, { trailers: fields }));
    stream.on('data', (piece) => answer.pieces.push(piece));
    stream.on('end', () => resolve({ ...answer, body: Buffer.concat(answer.pieces) }));
    stream.on('error', reject);
    stream.end(body);
  });
}

async function main(base, other) {
  const session = http2.connect(base);
  await new Promise((resolve, reject) => session.on('error', reject).on('connect', resolve));
  await new Promise((resolve, reject) => session.ping((error) => (error ? reject(error) : resolve())));
  const asked = Array.from({ length: 100 }, (_, index) => ask(session, { ':path': '/echo' }, `${index}`));
  console.log((await Promise.all(asked)).every(({ body }, index) => body.toString() === `${index}`));
  const summed = await ask(session, { ':path': '/echo' }, LARGE, { 'x-sum': '5' });
  console.log(summed.body.equals(LARGE), summed.trailers['x-sum']);
  const waiting = session.request({ ':path': '/wait' });
  await new Promise((resolve) => waiting.on('data', (piece) => resolve(console.log(piece.toString()))));
  waiting.close(NGHTTP2_CANCEL);
  const misled = await ask(session, { ':authority': other, ':path': '/echo' }, '');
  console.log(misled.status);
  console.log((await ask(session, { ':path': '/echo' }, 'the same connection')).body.toString());
  session.close();
  const denied = http2.connect(`https://${other}`);
  const refused = await ask(denied, { ':path': '/echo' }, LARGE);
  console.log(refused.status, JSON.parse(refused.body).code);
  denied.destroy();
}

main(process.argv[2], process.argv[3]);
