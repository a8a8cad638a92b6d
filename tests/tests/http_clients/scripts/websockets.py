# What a WebSocket carries, and who ends it how.
import sys
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect


def opened(path=''):
    return connect(sys.argv[1] + path, max_size=None, open_timeout=60)


def end(socket):
    try:
        print(socket.recv(60))
    except ConnectionClosed as closed:
        print(closed.rcvd and (closed.rcvd.code, closed.rcvd.reason))


with opened() as socket:
    socket.send('text \u2603')
    print(socket.recv(60))
    large = bytes(range(256)) * (16 << 10)
    socket.send(large)
    print(socket.recv(60) == large)
    socket.send([large[start:start + 10_000] for start in range(0, len(large), 10_000)])
    print(socket.recv(60) == large)
    for size in (0, 125, 126, 65_535, 65_536):
        socket.send(large[:size])
        print(len(socket.recv(60)))
    print(socket.ping('to the origin').wait(60))
    socket.send('ping')
    print(socket.recv(60))
    socket.close(4321, 'as the client wants')

for wish in ('close', 'half', 'cut'):
    with opened() as socket:
        socket.send(wish)
        end(socket)

try:
    opened('/private').close()
    print('opened')
except InvalidStatus as error:
    print(error.response.status_code, error.response.body.decode())
