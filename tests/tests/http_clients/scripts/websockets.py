# What a WebSocket carries, and who ends it how.
#
# With asyncio: the blocking client reads in a thread of its own, and two threads in one connection of OpenSSL make it hang
# now and then, with any server.
import asyncio
import sys
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus


def opened(path=''):
    return connect(sys.argv[1] + path, max_size=None, open_timeout=60)


async def heard(socket):
    return await asyncio.wait_for(socket.recv(), 60)


async def end(socket):
    try:
        print(await heard(socket))
    except ConnectionClosed as closed:
        print(closed.rcvd and (closed.rcvd.code, closed.rcvd.reason))


async def main():
    async with opened() as socket:
        await socket.send('text \u2603')
        print(await heard(socket))
        large = bytes(range(256)) * (16 << 10)
        await socket.send(large)
        print(await heard(socket) == large)
        await socket.send([large[start:start + 10_000] for start in range(0, len(large), 10_000)])
        print(await heard(socket) == large)
        for size in (0, 125, 126, 65_535, 65_536):
            await socket.send(large[:size])
            print(len(await heard(socket)))
        print(await asyncio.wait_for(await socket.ping('to the origin'), 60) >= 0)
        await socket.send('ping')
        print(await heard(socket))
        await socket.close(4321, 'as the client wants')

    for wish in ('close', 'half', 'cut'):
        async with opened() as socket:
            await socket.send(wish)
            await end(socket)

    try:
        async with opened('/private'):
            print('opened')
    except InvalidStatus as error:
        print(error.response.status_code, error.response.body.decode())


asyncio.run(main())
