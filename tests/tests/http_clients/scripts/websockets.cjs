// What a WebSocket carries, and who ends it how, by the client that the second word names.
const WebSocket = process.argv[3] === 'ws' ? require('ws') : require('undici').WebSocket;

const LARGE = Buffer.alloc(4 << 20, 'every byte of it ');

// Sends in turn, each when the answer to the one before is here; gives how it ended.
function talk(url, messages, told) {
  return new Promise((resolve) => {
    const socket = new WebSocket(url);
    socket.binaryType = 'arraybuffer';
    const next = () => (messages.length ? socket.send(messages.shift()) : socket.close(4321, 'as the client wants'));
    socket.onopen = next;
    socket.onmessage = ({ data }) => {
      told(typeof data === 'string' ? data : Buffer.from(data).equals(LARGE));
      next();
    };
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => resolve(`${code} ${reason}`);
  });
}

async function main(url) {
  console.log(await talk(url, ['text \u2603', LARGE, 'ping'], console.log));
  for (const wish of ['close', 'half', 'cut']) console.log(await talk(url, [wish], console.log));
}

main(process.argv[2]);
