# Many requests on one connection, bodies in pieces both ways, and an answer that nobody wants to its end.
import asyncio, httpx, sys

LARGE = bytes(range(256)) * (32 << 10)


async def pieces():
    for start in range(0, len(LARGE), 50_000):
        yield LARGE[start:start + 50_000]


async def main():
    async with httpx.AsyncClient(http2=True, base_url=sys.argv[1], timeout=60) as client:
        asked = (client.post('/echo', content=b'%d' % index) for index in range(100))
        answers = await asyncio.gather(*asked)
        print(*{answer.http_version for answer in answers})
        print(all(answer.content == b'%d' % index for index, answer in enumerate(answers)))
        async with client.stream('POST', '/echo', content=pieces()) as answer:
            print(b''.join([piece async for piece in answer.aiter_raw()]) == LARGE)
        async with client.stream('GET', '/wait') as answer:
            print(await anext(answer.aiter_raw()))
        print((await client.post('/echo', content=b'the same connection')).text)


asyncio.run(main())
