"""The cases that h2spec publishes, by its numbers, each against a connection of its own to the gateway.

Where h2spec lets the connection be closed without a word, these want the reason that RFC 9113 and RFC 7541 give.
Prints a line for each case: its number, whether it holds, and where not, why."""
import functools
import sys

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from peer import (CLOSED, COMPRESSION, CONTINUATION, DATA, END, FLOW, GOAWAY, HEADERS, PADDED, PING, PREFACE,
                  PRIORITISED, PRIORITY, PROTOCOL, PUSH, Peer, REFUSED, RESET, SETTINGS, SIZE, WHOLE, WINDOW_UPDATE,
                  bytes_of, number, settings)

CASES = []
MOST = 2 ** 31 - 1


def case(*numbers, shaken=True):
    """Registers a case under its numbers in h2spec's list."""
    def take(test):
        CASES.extend((number_, test, shaken) for number_ in numbers)
        return test
    return take


def each(numbers, things, shaken=True):
    """Registers one case for each thing; the test gets the thing."""
    def take(test):
        for number_, thing in zip(numbers, things, strict=True):
            CASES.append((number_, functools.partial(play, test, thing), shaken))
        return test
    return take


def play(test, thing, peer):
    test(peer, thing)


def numbered(section, count):
    return [f'{section}/{index}' for index in range(1, count + 1)]


def closed(peer, stream=1):
    """A stream that was answered to its end."""
    peer.send(peer.get(stream))
    peer.answers(stream)


# Generic: what every server must do.

@case('generic/1/1', 'http2/3.5/1', shaken=False)
def preface(peer):
    peer.send(PREFACE, settings())
    assert type(peer.read()).__name__ == 'SettingsFrame'


def weight(value, on=0, exclusive=False):
    return number(on | exclusive << 31) + bytes([value - 1])


@case('generic/2/1')
def priority_on_idle(peer):
    peer.send(bytes_of(PRIORITY, 0, 1, weight(256)))
    peer.send(peer.get())
    peer.answers()


@each(['generic/2/2', 'generic/2/3'], [(WINDOW_UPDATE, number(100)), (PRIORITY, weight(256))])
def on_half_closed(peer, frame):
    peer.send(peer.get(), bytes_of(frame[0], 0, 1, frame[1]))
    peer.answers()


@case('generic/2/4', 'generic/3.4/1')
def reset_half_closed(peer):
    peer.send(peer.get(), bytes_of(RESET, 0, 1, number(8)))
    peer.lives()


@case('generic/2/5')
def priority_on_closed(peer):
    closed(peer)
    peer.send(bytes_of(PRIORITY, 0, 1, weight(256)))
    peer.lives()


@each(numbered('generic/3.1', 3), [[b'test'], [b'test', b'test'], None])
def sends_data(peer, pieces):
    peer.send(peer.post())
    if pieces is None:
        peer.send(bytes_of(DATA, END | PADDED, 1, b'\x06test' + bytes(6)))
    else:
        peer.send(*[bytes_of(DATA, 0, 1, piece) for piece in pieces[:-1]], bytes_of(DATA, END, 1, pieces[-1]))
    peer.answers()


@each(numbered('generic/3.2', 3), [(0, b'', b''), (PADDED, b'\x06', bytes(6)), (PRIORITISED, weight(255), b'')])
def sends_headers(peer, how):
    flags, before, after = how
    peer.send(bytes_of(HEADERS, END | WHOLE | flags, 1, before + peer.block() + after))
    peer.answers()


@each(numbered('generic/3.3', 4), [weight(1), weight(256), weight(256, 3), weight(256, 3, True)])
def sends_priority(peer, payload):
    peer.send(bytes_of(PRIORITY, 0, 1, payload))
    peer.lives()


@case('generic/3.3/5')
def priority_then_lower(peer):
    peer.send(bytes_of(PRIORITY, 0, 3, weight(256)), peer.get(1))
    peer.answers()


@case('generic/3.5/1')
def sends_settings(peer):
    peer.send(settings((3, 100)))
    acknowledged(peer)


def acknowledged(peer):
    while True:
        frame = peer.read()
        peer.no_error(frame)
        if type(frame).__name__ == 'SettingsFrame' and 'ACK' in frame.flags:
            return


@case('generic/3.7/1', 'http2/6.7/1')
def sends_ping(peer):
    peer.lives()


@case('generic/3.8/1')
def sends_goaway(peer):
    peer.send(bytes_of(GOAWAY, 0, 0, number(0) + number(0)))
    peer.ends(0, None)


@case('generic/3.9/1')
def opens_connection(peer):
    peer.send(bytes_of(WINDOW_UPDATE, 0, 0, number(1)))
    peer.lives()


@case('generic/3.9/2')
def opens_stream(peer):
    peer.send(peer.post(), bytes_of(WINDOW_UPDATE, 0, 1, number(1)), bytes_of(DATA, END, 1, b'test'))
    peer.answers()


def in_parts(peer, count, stream=1):
    """A head in a HEADERS frame and so many of CONTINUATION."""
    block = peer.block(more=[('x-long', 'a' * 30), ('x-longer', 'b' * 40)])
    size = len(block) // (count + 1) + 1
    parts = [block[at:at + size] for at in range(0, len(block), size)]
    frames = [bytes_of(HEADERS, END, stream, parts[0])]
    frames += [bytes_of(CONTINUATION, 0, stream, part) for part in parts[1:-1]]
    return frames + [bytes_of(CONTINUATION, WHOLE, stream, parts[-1])]


@each(['generic/3.10/1', 'generic/3.10/2', 'http2/6.10/1'], [1, 2, 2])
def sends_continuation(peer, count):
    peer.send(*in_parts(peer, count))
    peer.answers()


@each(numbered('generic/4', 4), ['GET', 'HEAD', 'POST', 'trailers'])
def exchanges(peer, method):
    if method in ('GET', 'HEAD'):
        peer.send(peer.get(method=method))
    else:
        trailers = method == 'trailers'
        peer.send(peer.post(more=[('trailer', 'x-test')] if trailers else ()),
                  bytes_of(DATA, 0 if trailers else END, 1, b'test'))
        if trailers:
            peer.send(bytes_of(HEADERS, END | WHOLE, 1, peer.encoder.encode([('x-test', 'ok')])))
    peer.answers()


def text(value, huffman):
    """A literal of RFC 7541, section 5.2."""
    coder = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
    value = coder.encode(value) if huffman else value
    return bytes([len(value) | huffman << 7]) + value


def literals():
    """Fields as literals: the first byte with an indexed name (`user-agent` is 58), and with a new one."""
    for indexed, new in [(b'\x7a', b'\x40'), (b'\x0f\x2b', b'\x00'), (b'\x1f\x2b', b'\x10')]:
        for huffman in (False, True):
            yield indexed + text(b'test', huffman)
        for huffman in (False, True):
            yield new + text(b'x-test', huffman) + text(b'test', huffman)


@each(numbered('generic/5', 15), [b'\x90', *literals(), b'\x20', b'\x20\x3f\xe1\x1f'])
def represents(peer, field):
    # Changes of the table's size come first; indexed 16 is `accept-encoding: gzip, deflate`.
    size = field[0] >> 5 == 1
    block = peer.block(huffman=False)
    peer.send(bytes_of(HEADERS, END | WHOLE, 1, field + block if size else block + field))
    peer.answers()


# RFC 9113.

@case('http2/3.5/2', shaken=False)
def no_preface(peer):
    peer.send(PREFACE[:18] + b'XX\r\n\r\n')
    peer.ends(PROTOCOL, None)


@each(numbered('http2/4.1', 3), [
    bytes_of(0x16, 0, 0, bytes(8)), bytes_of(PING, 0x16, 0, b'\x00' * 8), bytes_of(PING, 0, 0, b'reserved', 1)])
def ignored(peer, frame):
    peer.send(frame)
    peer.lives()


@case('http2/4.2/1')
def largest_data(peer):
    peer.send(peer.post(), bytes_of(DATA, END, 1, bytes(2 ** 14)))
    peer.answers()


@case('http2/4.2/2')
def too_large_data(peer):
    peer.send(peer.post(), bytes_of(DATA, END, 1, bytes(2 ** 14 + 1)))
    peer.breaks(SIZE)


@case('http2/4.2/3')
def too_large_headers(peer):
    block = peer.block(more=[('x-large', 'a' * 2 ** 14)], huffman=False)
    peer.send(bytes_of(HEADERS, END | WHOLE, 1, block))
    peer.ends(SIZE)


@case('http2/4.3/1')
def no_block(peer):
    # A literal with an indexed name, whose value is missing.
    peer.send(bytes_of(HEADERS, END | WHOLE, 1, peer.block() + b'\x40'))
    peer.ends(COMPRESSION)


@each(['http2/4.3/2', 'http2/4.3/3', 'http2/6.2/1', 'http2/6.2/2', 'http2/5.5/2', 'http2/6.10/2'],
      [PRIORITY, HEADERS, PRIORITY, HEADERS, 0x16, 'after'])
def within_a_head(peer, kind):
    block = peer.block()
    peer.send(bytes_of(HEADERS, END, 1, block[:5]))
    if kind == 'after':
        peer.send(bytes_of(CONTINUATION, 0, 1, block[5:7]), bytes_of(DATA, END, 1, b'test'))
    elif kind == HEADERS:
        peer.send(bytes_of(HEADERS, END | WHOLE, 3, block))
    else:
        peer.send(bytes_of(kind, 0, 1, weight(256)))
    peer.ends(PROTOCOL)


@each(numbered('http2/5.1', 4), [(DATA, b'test'), (RESET, number(8)), (WINDOW_UPDATE, number(100)),
                                 (CONTINUATION, b'')])
def on_idle(peer, frame):
    kind, payload = frame
    peer.send(bytes_of(kind, WHOLE if kind == CONTINUATION else 0, 1, payload))
    peer.ends(PROTOCOL)


def again(peer, kind):
    """Another frame of a request that is whole."""
    payload = b'test' if kind == DATA else peer.block()
    flags = {DATA: END, HEADERS: END | WHOLE, CONTINUATION: WHOLE}[kind]
    return bytes_of(kind, flags, 1, payload)


@each([f'http2/5.1/{index}' for index in (5, 6, 7)], [DATA, HEADERS, CONTINUATION])
def half_closed(peer, kind):
    # The window that never opens keeps the answer from ending.
    peer.send(settings((4, 0)), peer.get(), again(peer, kind))
    peer.breaks(*[PROTOCOL] if kind == CONTINUATION else [CLOSED])


@each([f'http2/5.1/{index}' for index in (8, 9, 10)], [DATA, HEADERS, CONTINUATION])
def after_reset(peer, kind):
    peer.send(peer.post(), bytes_of(RESET, 0, 1, number(8)), again(peer, kind))
    peer.breaks(*[PROTOCOL] if kind == CONTINUATION else [CLOSED])


@each([f'http2/5.1/{index}' for index in (11, 12, 13)], [DATA, HEADERS, CONTINUATION])
def after_end(peer, kind):
    closed(peer)
    peer.send(again(peer, kind))
    peer.breaks(*[PROTOCOL] if kind == CONTINUATION else [CLOSED])


@case('http2/5.1.1/1')
def even(peer):
    peer.send(peer.get(2))
    peer.ends(PROTOCOL)


@case('http2/5.1.1/2')
def smaller(peer):
    peer.send(peer.get(5))
    peer.answers(5)
    peer.send(peer.get(3))
    # A stream that was passed over is closed (RFC 9113, section 5.1.1).
    peer.ends(PROTOCOL, CLOSED)


@case('http2/5.1.2/1')
def too_many(peer):
    most = peer.told[3]
    peer.send(settings((4, 0)), *[peer.post(2 * index + 1) for index in range(most + 1)])
    peer.breaks(PROTOCOL, REFUSED, stream=2 * most + 1)


@case('http2/5.3.1/1')
def head_on_itself(peer):
    peer.send(bytes_of(HEADERS, END | WHOLE | PRIORITISED, 1, weight(256, 1) + peer.block()))
    peer.breaks(PROTOCOL)


@case('http2/5.3.1/2')
def priority_on_itself(peer):
    peer.send(bytes_of(PRIORITY, 0, 2, weight(256, 2)))
    peer.breaks(PROTOCOL, stream=2)


@each(['http2/5.4.1/1', 'http2/5.4.1/2', 'http2/6.7/4', 'http2/6.9/3', *numbered('http2/6.5', 3)], [
    *[(bytes_of(PING, 0, 0, bytes(6)), SIZE)] * 3, (bytes_of(WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
    (bytes_of(SETTINGS, END, 0, bytes(1)), SIZE), (bytes_of(SETTINGS, 0, 1, b''), PROTOCOL),
    (bytes_of(SETTINGS, 0, 0, bytes(3)), SIZE)])
@each(['http2/6.4/2', 'http2/6.7/3', 'http2/6.8/1', 'http2/6.9/1', 'http2/6.9.1/2'], [
    (bytes_of(RESET, 0, 1, number(8)), PROTOCOL), (bytes_of(PING, 0, 1, bytes(8)), PROTOCOL),
    (bytes_of(GOAWAY, 0, 1, bytes(8)), PROTOCOL), (bytes_of(WINDOW_UPDATE, 0, 0, number(0)), PROTOCOL),
    (bytes_of(WINDOW_UPDATE, 0, 0, number(MOST)) * 2, FLOW)])
@each([*numbered('http2/6.5.2', 4), 'http2/6.9.2/3'], [
    (settings((2, 2)), PROTOCOL), (settings((4, 2 ** 31)), FLOW), (settings((5, 2 ** 14 - 1)), PROTOCOL),
    (settings((5, 2 ** 24)), PROTOCOL), (settings((4, 2 ** 31)), FLOW)])
def ends_the_connection(peer, fault):
    frames, reason = fault
    peer.send(frames)
    peer.ends(reason)


@case('http2/5.5/1')
def extension(peer):
    peer.send(bytes_of(0x16, 0, 0, b'anything'))
    peer.lives()


@each(['http2/6.1/1', 'http2/6.2/3', 'http2/6.3/1', 'http2/6.4/1', 'http2/6.10/3'],
      [DATA, HEADERS, PRIORITY, RESET, CONTINUATION])
def on_no_stream(peer, kind):
    block = peer.block()
    if kind == CONTINUATION:
        peer.send(bytes_of(HEADERS, END, 1, block[:5]))
    payload = {DATA: b'test', HEADERS: block, PRIORITY: weight(256), RESET: number(8), CONTINUATION: block[5:]}[kind]
    peer.send(bytes_of(kind, END | WHOLE if kind in (HEADERS, CONTINUATION) else 0, 0, payload))
    peer.ends(PROTOCOL)


@case('http2/6.1/2')
def data_on_closed(peer):
    closed(peer)
    peer.send(bytes_of(DATA, END, 1, b'test'))
    peer.breaks(CLOSED)


@each(['http2/6.1/3', 'http2/6.2/4'], [DATA, HEADERS])
def too_much_padding(peer, kind):
    if kind == DATA:
        peer.send(peer.post())
    payload = b'test' if kind == DATA else peer.block()
    peer.send(bytes_of(kind, END | WHOLE | PADDED if kind == HEADERS else END | PADDED, 1, b'\xff' + payload))
    peer.ends(PROTOCOL)


@case('http2/6.3/2')
def short_priority(peer):
    peer.send(peer.post(), bytes_of(PRIORITY, 0, 1, bytes(4)))
    peer.breaks(SIZE)


@case('http2/6.4/3')
def short_reset(peer):
    peer.send(peer.post(), bytes_of(RESET, 0, 1, bytes(3)))
    peer.ends(SIZE)


@case('http2/6.5.2/5')
def unknown_setting(peer):
    peer.send(settings((0xff, 1)))
    peer.lives()


@case('http2/6.5.3/1')
def last_value_counts(peer):
    peer.send(settings((4, 100), (4, 1)), peer.get())
    assert len(peer.data()) == 1


@case('http2/6.5.3/2')
def settings_are_acknowledged(peer):
    peer.send(settings((2, 0)))
    acknowledged(peer)


@case('http2/6.7/2')
def answer_to_no_ping(peer):
    peer.send(bytes_of(PING, END, 0, b'invalid!'))
    peer.lives()
    assert peer.seen.count('PingFrame') == 1


@case('http2/6.9/2')
def opens_nothing_of_a_stream(peer):
    peer.send(peer.post(), bytes_of(WINDOW_UPDATE, 0, 1, number(0)))
    peer.breaks(PROTOCOL)


@case('http2/6.9.1/1')
def window_of_one(peer):
    peer.send(settings((4, 1)), peer.get())
    assert len(peer.data()) == 1


@case('http2/6.9.1/3')
def window_of_stream_overflows(peer):
    peer.send(peer.post(), *[bytes_of(WINDOW_UPDATE, 0, 1, number(MOST))] * 2)
    peer.breaks(FLOW, connection=False)


@case('http2/6.9.2/1')
def window_changes_later(peer):
    peer.send(settings((4, 0)), peer.get())
    peer.lives()
    peer.send(settings((4, 1)))
    assert len(peer.data()) == 1


@case('http2/6.9.2/2')
def window_below_nothing(peer):
    peer.send(settings((4, 3)), peer.get())
    assert len(peer.data()) == 3
    peer.send(settings((4, 2)), bytes_of(WINDOW_UPDATE, 0, 1, number(2)))
    assert len(peer.data()) == 1


@each([f'http2/6.10/{index}' for index in (4, 5, 6)], ['head', 'continuation', 'data'])
def continuation_of_nothing(peer, after):
    if after == 'head':
        peer.send(peer.post())
    elif after == 'continuation':
        peer.send(*in_parts(peer, 1))
    else:
        peer.send(peer.post(), bytes_of(DATA, 0, 1, b'test'))
    peer.send(bytes_of(CONTINUATION, WHOLE, 1, peer.encoder.encode([('x', 'y')])))
    peer.ends(PROTOCOL)


@case('http2/7/1')
def farewell_for_no_known_reason(peer):
    peer.send(bytes_of(GOAWAY, 0, 0, number(0) + number(0xff)))
    # h2spec allows both: the end, and a PING that is answered.
    peer.ends(0, 0xff, None)


@case('http2/7/2')
def reset_for_no_known_reason(peer):
    peer.send(peer.post(), bytes_of(RESET, 0, 1, number(0xff)))
    peer.lives()


@case('http2/8.1/1')
def second_head(peer):
    peer.send(peer.post(), bytes_of(HEADERS, WHOLE, 1, peer.encoder.encode([('x-test', 'ok')])))
    peer.breaks(PROTOCOL)


@each(['http2/8.1.2/1', 'http2/8.1.2.1/1', 'http2/8.1.2.1/2', 'http2/8.1.2.1/4', 'http2/8.1.2.2/1', 'http2/8.1.2.2/2',
       'http2/8.1.2.3/5', 'http2/8.1.2.3/6', 'http2/8.1.2.3/7'],
      [('X-TEST', 'ok'), (':test', 'ok'), (':status', '200'), 'late', ('connection', 'keep-alive'),
       ('te', 'trailers, deflate'), (':method', 'GET'), (':scheme', 'http'), (':path', '/')])
def malformed_head(peer, field):
    if field == 'late':
        peer.send(bytes_of(HEADERS, END | WHOLE, 1, peer.block(drop=[':path'], more=[('x', 'y'), (':path', '/')])))
    else:
        peer.send(peer.get(more=[field]))
    peer.breaks(PROTOCOL)


@case('http2/8.1.2.1/3')
def pseudo_field_in_trailers(peer):
    peer.send(peer.post(), bytes_of(DATA, 0, 1, b'test'),
              bytes_of(HEADERS, END | WHOLE, 1, peer.encoder.encode([(':method', 'POST')])))
    peer.breaks(PROTOCOL)


@case('http2/8.1.2.3/1')
def empty_path(peer):
    peer.send(peer.get(path=''))
    peer.breaks(PROTOCOL)


@each([f'http2/8.1.2.3/{index}' for index in (2, 3, 4)], [':method', ':scheme', ':path'])
def missing_pseudo_field(peer, name):
    peer.send(peer.get(drop=[name]))
    peer.breaks(PROTOCOL)


@each(numbered('http2/8.1.2.6', 2), [[b'test'], [b'test', b'test']])
def another_length(peer, pieces):
    peer.send(peer.post(more=[('content-length', '1')]))
    peer.send(*[bytes_of(DATA, 0, 1, piece) for piece in pieces[:-1]], bytes_of(DATA, END, 1, pieces[-1]))
    peer.breaks(PROTOCOL)


@case('http2/8.2/1')
def promises(peer):
    peer.send(bytes_of(PUSH, WHOLE, 1, number(2) + peer.block()))
    peer.ends(PROTOCOL)


# RFC 7541.

@each(['hpack/2.3.3/1', 'hpack/2.3.3/2', 'hpack/4.2/1', *numbered('hpack/5.2', 3), 'hpack/6.1/1', 'hpack/6.3/1'], [
    # Indices beyond both tables, as a field and as a name.
    b'\xc6', b'\x7f\x07\x04test',
    # A change of the table's size that comes last.
    b'\x21',
    # More padding than seven bits, padding of zeros, and the code that ends nothing.
    b'\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff', b'\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90',
    b'\x00\x85\xf2\xb2\x4a\x84\xff\x87\xff\xff\xff\xfa\x84\x95\x09',
    # Index 0, and a table larger than was offered.
    b'\x80', 'large'])
def malformed_block(peer, field):
    block = peer.block()
    peer.send(bytes_of(HEADERS, END | WHOLE, 1, b'\x3f\xe2\x1f' + block if field == 'large' else block + field))
    peer.ends(COMPRESSION)


def main(proxy, authority):
    failed = 0
    for name, test, shaken in CASES:
        peer = None
        try:
            peer = Peer(proxy, authority, shaken)
            test(peer)
            print(name, 'holds')
        except (AssertionError, EOFError, OSError) as error:
            failed += 1
            seen = peer.seen if peer else []
            print(name, 'FAILS', type(error).__name__, error, seen)
        finally:
            if peer:
                peer.socket.close()
    names = {name for name, _, _ in CASES}
    print(len(CASES), 'cases,', len(names), 'numbers,', failed, 'fail')


main(*sys.argv[1:])
