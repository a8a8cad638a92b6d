# Calls of every kind to the origin at the first argument; says what came of each.
import grpc, queue, sys

channel = grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials())
PATIENCE = 60


def of(kind, method):
    return getattr(channel, kind)('/echo.Echo/' + method)


def ends(what, call):
    try:
        print(what, call())
    except grpc.RpcError as error:
        # Beside the origin's own words those of the library, which differ from time to time.
        print(what, error.code().name, error.details() if what == 'status' else '')


print(of('unary_unary', 'Echo')(b'one', timeout=PATIENCE))
print(list(of('unary_stream', 'Repeat')(b'3', timeout=PATIENCE)))
print(of('stream_unary', 'Count')((b'x' for _ in range(100)), timeout=PATIENCE))

# Each message is sent when the one before has come back.
going, came = queue.SimpleQueue(), []
going.put(b'0')
for message in of('stream_stream', 'Echo')(iter(going.get, None), timeout=PATIENCE):
    came.append(message)
    going.put(b'%d' % len(came) if len(came) < 5 else None)
print(came)

large = bytes(range(256)) * (16 << 10)
print(of('unary_unary', 'Echo')(large, timeout=PATIENCE) == large)
print([len(message) for message in of('stream_stream', 'Echo')(iter([large] * 3), timeout=PATIENCE)])

calls = [of('unary_unary', 'Echo').future(b'%d' % index, timeout=PATIENCE) for index in range(200)]
print(all(call.result() == b'%d' % index for index, call in enumerate(calls)))

ends('status', lambda: of('unary_unary', 'Fail')(b'', timeout=PATIENCE))
ends('deadline', lambda: of('unary_unary', 'Wait')(b'', timeout=0.5))
waiting = of('unary_stream', 'Wait')(b'', timeout=PATIENCE)
waiting.initial_metadata()
waiting.cancel()
ends('cancel', lambda: next(waiting))
going.put(b'')
broken = of('stream_stream', 'Break')(iter(going.get, None), timeout=PATIENCE)
print(next(broken))
going.put(b'it has come')
ends('broken', lambda: next(broken))
going.put(None)
print(of('unary_unary', 'Echo')(b'the same channel', timeout=PATIENCE))
