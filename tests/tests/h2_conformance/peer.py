"""A client of HTTP/2 that sends what a case says, right or wrong, and tells what comes back."""
import base64
import socket

from hpack import Decoder, Encoder
from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame
from hyperframe.exceptions import HyperframeError

DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END, WHOLE, PADDED, PRIORITISED = 1, 4, 8, 32
PREFACE = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
# RFC 9113, section 7.
PROTOCOL, FLOW, CLOSED, SIZE, REFUSED, COMPRESSION = 1, 3, 5, 6, 7, 9
PATIENCE_S = 20


class Peer:
    """One connection, in a tunnel through the explicit proxy."""

    def __init__(self, proxy, authority, shaken=True):
        self.authority = authority
        host, port = proxy.rsplit(':', 1)
        self.socket = socket.create_connection((host, int(port)), PATIENCE_S)
        word = base64.b64encode(b'box:word').decode()
        self.socket.sendall(f'CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n'
                            f'Proxy-Authorization: Basic {word}\r\n\r\n'.encode())
        answer = b''
        while not answer.endswith(b'\r\n\r\n'):
            answer += self.socket.recv(1)
        assert answer.startswith(b'HTTP/1.1 200 '), answer
        self.encoder, self.decoder = Encoder(), Decoder()
        self.told = {}
        self.seen = []
        if shaken:
            self.send(PREFACE, settings())
            # Theirs, then the acknowledgement of ours.
            acknowledged = False
            while not (acknowledged and self.told):
                frame = self.read()
                acknowledged |= isinstance(frame, SettingsFrame) and 'ACK' in frame.flags

    def send(self, *frames):
        """Sends frames; a gateway that has closed the connection meanwhile is seen when its answer is read."""
        try:
            self.socket.sendall(b''.join(frames))
        except OSError:
            pass

    def exactly(self, count):
        found = b''
        while len(found) < count:
            try:
                piece = self.socket.recv(count - len(found))
            except ConnectionError:
                piece = b''
            if not piece:
                raise EOFError
            found += piece
        return found

    def read(self):
        """The next frame; its settings are remembered and acknowledged."""
        head = self.exactly(9)
        try:
            frame, length = Frame.parse_frame_header(memoryview(head))
            frame.parse_body(memoryview(self.exactly(length)))
        except HyperframeError as error:
            raise AssertionError(f'the gateway sent a frame that is none: {head.hex()}') from error
        if isinstance(frame, SettingsFrame) and 'ACK' not in frame.flags:
            self.told.update(frame.settings)
            self.send(bytes_of(SETTINGS, END, 0))
        if isinstance(frame, HeadersFrame):
            frame.fields = self.decoder.decode(frame.data)
        self.seen.append(type(frame).__name__)
        return frame

    def block(self, method='GET', more=(), drop=(), path='/', huffman=True):
        """The head of a request."""
        fields = [(':method', method), (':scheme', 'http'), (':path', path), (':authority', self.authority)]
        fields = [field for field in fields if field[0] not in drop]
        return self.encoder.encode(fields + list(more), huffman=huffman)

    def get(self, stream=1, **words):
        """The frame of a request without a body."""
        return bytes_of(HEADERS, END | WHOLE, stream, self.block(**words))

    def post(self, stream=1, more=()):
        """The frame of a request whose body is to follow."""
        return bytes_of(HEADERS, WHOLE, stream, self.block('POST', more))

    # What is expected.

    def answers(self, stream=1, status='200'):
        """The stream is answered, to its end."""
        while True:
            frame = self.read()
            if isinstance(frame, HeadersFrame) and frame.stream_id == stream:
                found = dict(frame.fields)[':status']
                assert found == status, f'status {found}'
            self.no_error(frame)
            if frame.stream_id == stream and 'END_STREAM' in frame.flags:
                return

    def lives(self):
        """A PING is answered, and nothing was broken before."""
        self.send(bytes_of(PING, 0, 0, b'are you?'))
        while True:
            frame = self.read()
            self.no_error(frame)
            if isinstance(frame, PingFrame) and 'ACK' in frame.flags and frame.opaque_data == b'are you?':
                return

    def no_error(self, frame):
        assert not isinstance(frame, (GoAwayFrame, RstStreamFrame)), f'{frame!r}'

    def ends(self, *codes):
        """The connection ends, and a farewell gives one of these codes as the reason."""
        reason = None
        try:
            while True:
                frame = self.read()
                if isinstance(frame, GoAwayFrame):
                    reason = frame.error_code
        except EOFError:
            assert reason in codes, f'the farewell says {reason}, after {self.seen}'

    def breaks(self, *codes, stream=1, connection=True):
        """The stream is broken for one of these reasons, or where that may be, the connection."""
        try:
            while True:
                frame = self.read()
                if isinstance(frame, RstStreamFrame) and frame.stream_id == stream:
                    assert frame.error_code in codes, f'the stream breaks for {frame.error_code}'
                    return
                if connection and isinstance(frame, GoAwayFrame):
                    assert frame.error_code in codes, f'the farewell says {frame.error_code}'
                    return
                answered = frame.stream_id == stream and 'END_STREAM' in frame.flags
                assert not answered, 'the stream is answered'
        except EOFError:
            raise AssertionError(f'the connection ends without a reason, after {self.seen}') from None

    def data(self):
        """The next piece of payload."""
        while True:
            frame = self.read()
            self.no_error(frame)
            if type(frame).__name__ == 'DataFrame':
                return frame.data


def bytes_of(kind, flags, stream, payload=b'', reserved=0):
    """A frame, whatever it says."""
    stream = (stream | reserved << 31).to_bytes(4, 'big')
    return len(payload).to_bytes(3, 'big') + bytes([kind, flags]) + stream + payload


def settings(*pairs):
    """A frame of settings."""
    payload = b''.join(key.to_bytes(2, 'big') + value.to_bytes(4, 'big') for key, value in pairs)
    return bytes_of(SETTINGS, 0, 0, payload)


def number(value):
    """Four bytes."""
    return value.to_bytes(4, 'big')
