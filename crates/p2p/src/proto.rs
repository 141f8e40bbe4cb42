//! Frames: a length, then that many bytes of protobuf.
//!
//! Spec: p2p, sections 4.1 (unsigned varint) and 4.2 (fixed, signed 64-bit little-endian).
//!
//! - **Bounds:** the maximum is checked before memory is taken, and memory grows by at most
//!   [`CHUNK`] bytes ahead of what has arrived, not with what was announced. A [`Meter`] is asked
//!   before each growth and may hold the reader back.
//! - **Time:** every call takes its time-out; it covers the whole frame.
//! - **Cancellation:** a dropped call leaves the stream in the middle of a frame; drop the stream too.

use std::{
    io::{self, ErrorKind},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use prost::Message;
use tokio::time::timeout;

/// How far memory may run ahead of what has arrived; a typical message fits in one.
pub const CHUNK: usize = 8 << 10;
/// A varint of a length below 2^63 has at most nine bytes.
const MAX_VARINT: usize = 9;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stream broke; the kind is the transport's.
    #[error("the stream broke")]
    Io(#[from] io::Error),
    /// The other side ended the stream before the first byte.
    #[error("the stream ended without a frame")]
    Empty,
    /// The other side ended the stream inside a frame.
    #[error("the stream ended after {got} of {announced} bytes")]
    Truncated {
        /// Bytes of the body that arrived.
        got: usize,
        /// Bytes that were announced.
        announced: usize,
    },
    /// The stream ended inside the length.
    #[error("the stream ended inside a length prefix")]
    TruncatedLength,
    /// More was announced than is allowed.
    #[error("a frame of {len} bytes is longer than the {max} allowed")]
    TooLong {
        /// The announced length.
        len: u64,
        /// The limit.
        max: usize,
    },
    /// The length is not a minimal varint below 2^63, or not positive where it must be.
    #[error("the length prefix is malformed")]
    BadLength,
    /// The body is not the expected message.
    #[error("the body is not the expected message")]
    Decode(#[from] prost::DecodeError),
    /// The frame took too long.
    #[error("the frame took longer than {limit:?}")]
    TimedOut {
        /// The time-out of the call.
        limit: Duration,
    },
}

/// Asked before memory is taken for bytes of a frame.
pub trait Meter {
    /// Resolves once `bytes` more may be held.
    fn take(&mut self, bytes: usize) -> impl Future<Output = ()> + Send;
}

/// Lets everything pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMeter;

impl Meter for NoMeter {
    async fn take(&mut self, _: usize) {}
}

/// A message with its varint length, encoded once and shared by all who send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    bytes: Bytes,
    prefix: usize,
}

impl Frame {
    /// Encodes a message.
    pub fn encode<M: Message>(message: &M) -> Self {
        let len = message.encoded_len();
        let mut bytes = BytesMut::with_capacity(MAX_VARINT + len);
        prost::encoding::encode_varint(len as u64, &mut bytes);
        let prefix = bytes.len();
        message.encode_raw(&mut bytes);
        Self {
            bytes: bytes.freeze(),
            prefix,
        }
    }

    /// Frames a body that is encoded already.
    pub fn from_body(body: &[u8]) -> Self {
        let mut bytes = BytesMut::with_capacity(MAX_VARINT + body.len());
        prost::encoding::encode_varint(body.len() as u64, &mut bytes);
        let prefix = bytes.len();
        bytes.extend_from_slice(body);
        Self {
            bytes: bytes.freeze(),
            prefix,
        }
    }

    /// Length and body, as they go out.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The body.
    pub fn body(&self) -> Bytes {
        self.bytes.slice(self.prefix..)
    }
}

/// Writes a frame in one piece and flushes.
pub async fn write_frame(
    io: &mut (impl AsyncWrite + Unpin),
    frame: &Frame,
    limit: Duration,
) -> Result<(), Error> {
    write_all(io, frame.as_bytes(), limit).await
}

/// Reads the body of one varint frame of at most `max` bytes; zero bytes are legal.
pub async fn read_body(
    io: &mut (impl AsyncRead + Unpin),
    max: usize,
    limit: Duration,
    meter: &mut impl Meter,
) -> Result<Bytes, Error> {
    within(limit, async {
        let len = read_varint(io).await?;
        read_announced(io, len, max, meter).await
    })
    .await
}

/// Reads one varint frame of at most `max` bytes, and keeps none of it.
pub async fn skip_body(
    io: &mut (impl AsyncRead + Unpin),
    max: usize,
    limit: Duration,
) -> Result<(), Error> {
    within(limit, async {
        let announced = announced(read_varint(io).await?, max)?;
        let mut scratch = [0; 4096];
        let mut got = 0;
        while got < announced {
            let step = scratch.len().min(announced - got);
            let read = read_some(io, &mut scratch[..step]).await?;
            got += read;
            if read < step {
                return Err(Error::Truncated { got, announced });
            }
        }
        Ok(())
    })
    .await
}

/// Reads one varint frame as a message.
pub async fn read_protobuf_with_max_size<M: Message + Default>(
    io: &mut (impl AsyncRead + Unpin),
    max: usize,
    limit: Duration,
) -> Result<M, Error> {
    Ok(M::decode(read_body(io, max, limit, &mut NoMeter).await?)?)
}

/// Writes a message as one varint frame.
pub async fn write_protobuf<M: Message>(
    io: &mut (impl AsyncWrite + Unpin),
    message: &M,
    limit: Duration,
) -> Result<(), Error> {
    write_frame(io, &Frame::encode(message), limit).await
}

/// Reads one frame with a fixed-size length as a message; an empty one is malformed.
pub async fn read_fixed_size_protobuf_with_max_size<M: Message + Default>(
    io: &mut (impl AsyncRead + Unpin),
    max: usize,
    limit: Duration,
) -> Result<M, Error> {
    let body = within(limit, async {
        let mut prefix = [0; 8];
        let got = read_some(io, &mut prefix).await?;
        match got {
            0 => return Err(Error::Empty),
            8 => {}
            _ => return Err(Error::TruncatedLength),
        }
        let len = u64::try_from(i64::from_le_bytes(prefix)).map_err(|_| Error::BadLength)?;
        if len == 0 {
            return Err(Error::BadLength);
        }
        read_announced(io, len, max, &mut NoMeter).await
    })
    .await?;
    Ok(M::decode(body)?)
}

/// Writes a message with a fixed-size length, in one piece: the receiver in Charon reads the body
/// with a single call and takes fewer bytes for an error (p2p spec, W-33).
///
/// # Errors
///
/// A message that encodes to nothing is [`Error::BadLength`]: it has no legal frame.
pub async fn write_fixed_size_protobuf<M: Message>(
    io: &mut (impl AsyncWrite + Unpin),
    message: &M,
    limit: Duration,
) -> Result<(), Error> {
    let len = message.encoded_len();
    if len == 0 {
        return Err(Error::BadLength);
    }
    let mut bytes = BytesMut::with_capacity(8 + len);
    bytes.extend_from_slice(&(len as i64).to_le_bytes());
    message.encode_raw(&mut bytes);
    write_all(io, &bytes, limit).await
}

async fn write_all(
    io: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    limit: Duration,
) -> Result<(), Error> {
    within(limit, async {
        io.write_all(bytes).await?;
        io.flush().await?;
        Ok(())
    })
    .await
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(limit, work)
        .await
        .unwrap_or(Err(Error::TimedOut { limit }))
}

async fn read_varint(io: &mut (impl AsyncRead + Unpin)) -> Result<u64, Error> {
    let mut len = 0u64;
    for index in 0..MAX_VARINT {
        let mut byte = [0];
        if read_some(io, &mut byte).await? == 0 {
            return Err(if index == 0 {
                Error::Empty
            } else {
                Error::TruncatedLength
            });
        }
        let [byte] = byte;
        len |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            // A last byte of zero says nothing: the encoding is not minimal.
            return if byte == 0 && index > 0 {
                Err(Error::BadLength)
            } else {
                Ok(len)
            };
        }
    }
    Err(Error::BadLength)
}

fn announced(len: u64, max: usize) -> Result<usize, Error> {
    usize::try_from(len)
        .ok()
        .filter(|len| *len <= max)
        .ok_or(Error::TooLong { len, max })
}

async fn read_announced(
    io: &mut (impl AsyncRead + Unpin),
    len: u64,
    max: usize,
    meter: &mut impl Meter,
) -> Result<Bytes, Error> {
    let announced = announced(len, max)?;
    let mut body = BytesMut::new();
    while body.len() < announced {
        let got = body.len();
        let step = CHUNK.min(announced - got);
        meter.take(step).await;
        // Amortised doubling, so ahead of what arrived by a factor of two at most.
        body.resize(got + step, 0);
        let read = read_some(io, &mut body[got..]).await?;
        if read < step {
            return Err(Error::Truncated {
                got: got + read,
                announced,
            });
        }
    }
    Ok(body.freeze())
}

/// Fills the buffer unless the stream ends; says how much there was.
async fn read_some(io: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> Result<usize, Error> {
    let mut filled = 0;
    while filled < buffer.len() {
        match io.read(&mut buffer[filled..]).await {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Io(error)),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll, ready},
    };

    use futures::io::Cursor;
    use proptest::prelude::*;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_frame_arrives_wherever_it_is_split() {
        let frame = Frame::from_body(&[7; 300]);
        for split in 0..frame.as_bytes().len() {
            let (near, far) = tokio::io::duplex(1024);
            let (mut near, mut far) = (near.compat(), far.compat());
            let (head, tail) = frame.as_bytes().split_at(split);
            let write = async {
                near.write_all(head).await.unwrap();
                tokio::task::yield_now().await;
                near.write_all(tail).await.unwrap();
            };
            let mut free = NoMeter;
            let (body, ()) = tokio::join!(read_body(&mut far, 300, LIMIT, &mut free), write);
            assert_eq!(body.unwrap(), frame.body());
        }
    }

    #[tokio::test]
    async fn the_maximum_is_the_last_length_allowed() {
        let frame = Frame::from_body(&[1; 10]);
        assert!(read(frame.as_bytes(), 10).await.is_ok());
        let error = read(frame.as_bytes(), 9).await.unwrap_err();
        assert!(matches!(error, Error::TooLong { len: 10, max: 9 }));
    }

    #[tokio::test]
    async fn an_empty_frame_is_an_empty_message() {
        assert!(read(&[0], 0).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn each_way_to_end_early_is_told_apart() {
        assert!(matches!(read(&[], 9).await, Err(Error::Empty)));
        assert!(matches!(
            read(&[0x80], 9).await,
            Err(Error::TruncatedLength)
        ));
        let error = read(&[5, 1, 2], 9).await.unwrap_err();
        assert!(matches!(
            error,
            Error::Truncated {
                got: 2,
                announced: 5
            }
        ));
    }

    #[tokio::test]
    async fn lengths_that_go_never_writes_are_malformed() {
        for bytes in [&[0x80, 0x00][..], &[0xff; 9], &[0xff; 10]] {
            assert!(matches!(
                read(bytes, usize::MAX).await,
                Err(Error::BadLength)
            ));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_sender_costs_the_time_out_and_no_more() {
        let (_near, far) = tokio::io::duplex(64);
        let error = read_body(&mut far.compat(), 9, LIMIT, &mut NoMeter).await;
        assert!(matches!(error, Err(Error::TimedOut { limit: LIMIT })));
    }

    #[tokio::test]
    async fn the_kind_of_an_io_error_survives() {
        struct Broken;
        impl AsyncRead for Broken {
            fn poll_read(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                _: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                Poll::Ready(Err(ErrorKind::ConnectionReset.into()))
            }
        }
        let error = read_body(&mut Broken, 9, LIMIT, &mut NoMeter).await;
        assert!(
            matches!(error, Err(Error::Io(error)) if error.kind() == ErrorKind::ConnectionReset)
        );
    }

    #[tokio::test]
    async fn memory_is_asked_for_as_bytes_arrive() {
        struct Count(usize);
        impl Meter for Count {
            async fn take(&mut self, bytes: usize) {
                self.0 += bytes;
            }
        }
        let mut bytes = BytesMut::new();
        prost::encoding::encode_varint(128 << 20, &mut bytes);
        bytes.extend_from_slice(&[0; 1024]);
        let mut count = Count(0);
        let error = read_body(&mut Cursor::new(bytes), 128 << 20, LIMIT, &mut count).await;
        assert!(matches!(error, Err(Error::Truncated { got: 1024, .. })));
        assert_eq!(count.0, CHUNK);
    }

    #[tokio::test]
    async fn fixed_frames_carry_one_byte_at_least() {
        let mut bytes = Vec::new();
        write_fixed_size_protobuf(&mut bytes, &5u32, LIMIT)
            .await
            .unwrap();
        assert_eq!(bytes, [2, 0, 0, 0, 0, 0, 0, 0, 8, 5]);
        let read: u32 = read_fixed_size_protobuf_with_max_size(&mut Cursor::new(&bytes), 2, LIMIT)
            .await
            .unwrap();
        assert_eq!(read, 5);

        for (bytes, max) in [(0i64.to_le_bytes(), 9), ((-1i64).to_le_bytes(), 9)] {
            let result: Result<u32, _> =
                read_fixed_size_protobuf_with_max_size(&mut Cursor::new(bytes), max, LIMIT).await;
            assert!(matches!(result, Err(Error::BadLength)));
        }
        let result: Result<u32, _> =
            read_fixed_size_protobuf_with_max_size(&mut Cursor::new(&bytes), 1, LIMIT).await;
        assert!(matches!(result, Err(Error::TooLong { len: 2, max: 1 })));
        let written = write_fixed_size_protobuf(&mut Vec::new(), &0u32, LIMIT).await;
        assert!(matches!(written, Err(Error::BadLength)));
    }

    #[tokio::test]
    async fn what_is_skipped_is_what_would_have_been_read() {
        let frame = Frame::from_body(&[3; 10_000]);
        let mut io = Cursor::new([frame.as_bytes(), b"rest"].concat());
        skip_body(&mut io, 10_000, LIMIT).await.unwrap();
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"rest");

        let long = skip_body(&mut Cursor::new(frame.as_bytes()), 9999, LIMIT).await;
        assert!(matches!(
            long,
            Err(Error::TooLong {
                len: 10_000,
                max: 9999
            })
        ));
        let cut = &frame.as_bytes()[..5000];
        let short = skip_body(&mut Cursor::new(cut), 10_000, LIMIT).await;
        assert!(matches!(
            short,
            Err(Error::Truncated {
                got: 4998,
                announced: 10_000
            })
        ));
    }

    proptest! {
        #[test]
        fn a_varint_frame_is_read_as_written_in_whatever_pieces(
            body in proptest::collection::vec(any::<u8>(), 0..40_000),
            cuts in proptest::collection::vec(1usize..9000, 1..8),
        ) {
            let written = run(async {
                let mut io = Slow::writer(&cuts);
                write_protobuf(&mut io, &body, LIMIT).await.unwrap();
                io.written
            });
            let message: Vec<u8> = run(read_protobuf_with_max_size(
                &mut Slow::reader(&written, &cuts), written.len(), LIMIT,
            )).unwrap();
            prop_assert_eq!(message, &body[..]);

            let frame = Frame::encode(&body);
            prop_assert_eq!(frame.as_bytes(), &written[..]);
            prop_assert_eq!(&Frame::from_body(&frame.body()), &frame);
            let mut io = Slow::reader(&written, &cuts);
            let read = run(read_body(&mut io, frame.body().len(), LIMIT, &mut NoMeter)).unwrap();
            prop_assert_eq!(read, frame.body());
        }

        #[test]
        fn a_fixed_frame_is_read_as_written_in_whatever_pieces(
            body in proptest::collection::vec(any::<u8>(), 1..40_000),
            cuts in proptest::collection::vec(1usize..9000, 1..8),
        ) {
            let written = run(async {
                let mut io = Slow::writer(&cuts);
                write_fixed_size_protobuf(&mut io, &body, LIMIT).await.unwrap();
                io.written
            });
            prop_assert_eq!(&written[..8], &(written.len() as i64 - 8).to_le_bytes());
            let max = written.len() - 8;
            let message: Vec<u8> = run(read_fixed_size_protobuf_with_max_size(
                &mut Slow::reader(&written, &cuts), max, LIMIT,
            )).unwrap();
            prop_assert_eq!(message, body);
        }

        #[test]
        fn the_kind_of_an_error_survives_wherever_it_strikes(
            kind in kinds(),
            at in 0usize..20,
            cuts in proptest::collection::vec(1usize..20, 1..8),
        ) {
            // A varint frame and a fixed one, both longer than what gets through.
            let varint = Frame::from_body(&[1; 100]);
            let mut fixed = 100i64.to_le_bytes().to_vec();
            fixed.extend([1; 100]);
            let got = |result: Result<(), Error>| match result {
                Err(Error::Io(error)) => Some(error.kind()),
                _ => None,
            };

            let mut io = Slow::reader(&varint.as_bytes()[..at], &cuts).failing(kind);
            let read = run(read_body(&mut io, 100, LIMIT, &mut NoMeter));
            prop_assert_eq!(got(read.map(drop)), Some(kind));
            let mut io = Slow::reader(&varint.as_bytes()[..at], &cuts).failing(kind);
            prop_assert_eq!(got(run(skip_body(&mut io, 100, LIMIT))), Some(kind));
            let mut io = Slow::reader(&fixed[..at], &cuts).failing(kind);
            let read = run(read_fixed_size_protobuf_with_max_size::<Vec<u8>>(&mut io, 100, LIMIT));
            prop_assert_eq!(got(read.map(drop)), Some(kind));

            let mut io = Slow::writer(&cuts).failing_after(at, kind);
            prop_assert_eq!(got(run(write_frame(&mut io, &varint, LIMIT))), Some(kind));
            let mut io = Slow::writer(&cuts).failing_after(at, kind);
            let written = run(write_fixed_size_protobuf(&mut io, &vec![1u8; 100], LIMIT));
            prop_assert_eq!(got(written), Some(kind));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let body = run(read_body(&mut Cursor::new(&bytes), 1 << 20, LIMIT, &mut NoMeter));
            if let Ok(body) = &body {
                // Each body has one encoding, and no other is accepted.
                let frame = Frame::from_body(body);
                prop_assert_eq!(frame.as_bytes(), &bytes[..frame.as_bytes().len()]);
            }
            let skipped = run(skip_body(&mut Cursor::new(&bytes), 1 << 20, LIMIT));
            prop_assert_eq!(skipped.is_ok(), body.is_ok());
            let _ = run(read_fixed_size_protobuf_with_max_size::<u64>(
                &mut Cursor::new(&bytes), 1 << 20, LIMIT,
            ));
            // A length that is short enough to be let through.
            let mut fixed = (bytes.len() as i64).to_le_bytes().to_vec();
            fixed.extend(&bytes);
            let _ = run(read_fixed_size_protobuf_with_max_size::<u64>(
                &mut Cursor::new(&fixed), 1 << 20, LIMIT,
            ));
        }
    }

    /// Every kind that a transport may report, but the one that means "again".
    fn kinds() -> impl Strategy<Value = ErrorKind> {
        proptest::sample::select(vec![
            ErrorKind::ConnectionReset,
            ErrorKind::ConnectionAborted,
            ErrorKind::NotConnected,
            ErrorKind::BrokenPipe,
            ErrorKind::TimedOut,
            ErrorKind::WriteZero,
            ErrorKind::UnexpectedEof,
            ErrorKind::InvalidData,
            ErrorKind::Other,
        ])
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(future)
    }

    /// Reads and writes in pieces of given sizes, over and over, with a pause before each, and with
    /// an interruption of each read; then ends or fails.
    struct Slow {
        pieces: Vec<usize>,
        turn: usize,
        interrupted: bool,
        unread: Vec<u8>,
        written: Vec<u8>,
        room: usize,
        fails: Option<ErrorKind>,
    }

    impl Slow {
        fn reader(bytes: &[u8], pieces: &[usize]) -> Self {
            Self {
                unread: bytes.to_vec(),
                ..Self::writer(pieces)
            }
        }

        fn writer(pieces: &[usize]) -> Self {
            Self {
                pieces: pieces.to_vec(),
                turn: 0,
                interrupted: false,
                unread: Vec::new(),
                written: Vec::new(),
                room: usize::MAX,
                fails: None,
            }
        }

        fn failing(mut self, kind: ErrorKind) -> Self {
            self.fails = Some(kind);
            self
        }

        fn failing_after(mut self, room: usize, kind: ErrorKind) -> Self {
            self.room = room;
            self.failing(kind)
        }

        /// How much may pass in this turn.
        fn turn(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
            self.turn += 1;
            if self.turn % 2 == 1 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(self.pieces[self.turn / 2 % self.pieces.len()])
        }

        fn end(&self) -> io::Result<usize> {
            self.fails.map_or(Ok(0), |kind| Err(kind.into()))
        }
    }

    impl AsyncRead for Slow {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let piece = ready!(self.turn(cx));
            self.interrupted = !self.interrupted;
            if self.interrupted {
                return Poll::Ready(Err(ErrorKind::Interrupted.into()));
            }
            let len = piece.min(buffer.len()).min(self.unread.len());
            if len == 0 {
                return Poll::Ready(self.end());
            }
            buffer[..len].copy_from_slice(&self.unread[..len]);
            self.unread.drain(..len);
            Poll::Ready(Ok(len))
        }
    }

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &[u8],
        ) -> Poll<io::Result<usize>> {
            let piece = ready!(self.turn(cx));
            let len = piece.min(buffer.len()).min(self.room);
            if len == 0 {
                return Poll::Ready(self.end());
            }
            self.room -= len;
            self.written.extend_from_slice(&buffer[..len]);
            Poll::Ready(Ok(len))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn read(bytes: &[u8], max: usize) -> Result<Bytes, Error> {
        read_body(&mut Cursor::new(bytes), max, LIMIT, &mut NoMeter).await
    }
}
