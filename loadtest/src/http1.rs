//! HTTP/1.1 messages of a known length, read piece by piece, for the generator and its origin.

use crate::limits::HEAD_BYTES_MAX;

/// Why bytes are no message that is understood here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The framing is not by length.
    #[error("a message whose length is not given by one Content-Length")]
    Framing,
    /// The head has no end.
    #[error("a head of more than {HEAD_BYTES_MAX} bytes")]
    TooLong,
}

/// What comes next of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Its head, to the empty line and with it.
    Head(&'a [u8]),
    /// Bytes of its body.
    Body(&'a [u8]),
    /// Its end.
    End,
}

/// Reads one message after the other.
#[derive(Debug, Default)]
pub struct Reader {
    head: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Head,
    Body(u64),
}

impl Reader {
    /// The next piece of what was read; nothing where more must come.
    ///
    /// # Errors
    /// [`Fault`]; the connection is of no more use then.
    pub fn next<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Result<Option<Piece<'a>>, Fault> {
        match self.state {
            State::Body(0) => {
                self.state = State::Head;
                Ok(Some(Piece::End))
            }
            State::Body(left) => {
                let n = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                let (body, rest) = input.split_at(n);
                *input = rest;
                self.state = State::Body(left - n as u64);
                Ok((n > 0).then_some(Piece::Body(body)))
            }
            State::Head => self.head(input),
        }
    }

    fn head<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Result<Option<Piece<'a>>, Fault> {
        if matches!(self.head.last_chunk(), Some(b"\r\n\r\n")) {
            self.head.clear();
        }
        if self.head.is_empty() {
            let Some(end) = end_of_head(input) else {
                self.keep(input)?;
                return Ok(None);
            };
            let (head, rest) = input.split_at(end);
            *input = rest;
            self.state = State::Body(length(head)?);
            return Ok(Some(Piece::Head(head)));
        }
        // Only bytes that are new are searched.
        let before = self.head.len();
        self.head.extend_from_slice(input);
        let from = before.saturating_sub(3);
        let Some(end) = end_of_head(&self.head[from..]).map(|end| end + from) else {
            self.head.truncate(before);
            self.keep(input)?;
            return Ok(None);
        };
        *input = &input[end - before..];
        self.head.truncate(end);
        self.state = State::Body(length(&self.head)?);
        Ok(Some(Piece::Head(&self.head)))
    }

    fn keep(&mut self, input: &mut &[u8]) -> Result<(), Fault> {
        self.head.extend_from_slice(input);
        *input = &[];
        if self.head.len() > HEAD_BYTES_MAX { Err(Fault::TooLong) } else { Ok(()) }
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The fields of a head, names as they stand, values without white space around them.
pub fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    head.split(|byte| *byte == b'\n').skip(1).filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    })
}

/// The status of an answer's head; zero where there is none.
pub fn status(head: &[u8]) -> u16 {
    head.get(9..12).and_then(number).unwrap_or(0) as u16
}

/// Method and target of a request's head.
pub fn request_line(head: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let mut words = line.split(|byte| *byte == b' ');
    Some((words.next()?, words.next()?))
}

fn length(head: &[u8]) -> Result<u64, Fault> {
    // An answer to CONNECT has no body, and so has one without content.
    let mut found = None;
    for (name, value) in fields(head) {
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Err(Fault::Framing);
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let value = number(value).ok_or(Fault::Framing)?;
            if found.replace(value).is_some_and(|before| before != value) {
                return Err(Fault::Framing);
            }
        }
    }
    Ok(found.unwrap_or(0))
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader makes of bytes that come in steps of this size.
    fn read(bytes: &[u8], step: usize) -> Result<Vec<String>, Fault> {
        let (mut reader, mut out) = (Reader::default(), Vec::<String>::new());
        for mut input in bytes.chunks(step) {
            while let Some(piece) = reader.next(&mut input)? {
                match piece {
                    Piece::Head(head) => out.push(format!("head {}", head.len())),
                    Piece::Body(body) => match out.last_mut() {
                        Some(last) if last.starts_with("body ") => {
                            *last += std::str::from_utf8(body).unwrap();
                        }
                        _ => out.push(format!("body {}", std::str::from_utf8(body).unwrap())),
                    },
                    Piece::End => out.push("end".into()),
                }
            }
        }
        Ok(out)
    }

    #[test]
    fn messages_are_the_same_however_their_bytes_come() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 204 No\r\n\r\n";
        for step in 1..=bytes.len() {
            assert_eq!(
                read(bytes, step).unwrap(),
                ["head 38", "body hello", "end", "head 19", "end"],
                "{step}"
            );
        }
    }

    #[test]
    fn messages_without_a_length_are_not_guessed_at() {
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 99), Err(Fault::Framing));
        let twice = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(read(twice, 99), Err(Fault::Framing));
        assert_eq!(read(&[b'a'; HEAD_BYTES_MAX + 1], 4096), Err(Fault::TooLong));
    }
}
