//! Moves the bytes of one circuit, both ways, until one of its bounds or an end is reached.
//!
//! - **Owner:** the handler of the connection to the far end polls it; it owns both streams.
//! - **Wake-ups:** the streams. After [`BUDGET`] chunks it yields and wakes itself, so that one busy
//!   circuit does not hold up what else its connection carries.
//! - **Bounds:** an idle circuit holds no buffer; one whose receiver is slow holds at most [`CHUNK`]
//!   bytes each way, and reads no more until they are gone.
//! - **Disconnect:** the streams break, and with them this.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};

use crate::metrics::{Meter, Transferred};

/// How much is read at a time; what a muxer's frame carries at most is taken in a few steps.
const CHUNK: usize = 16 << 10;
/// Chunks of one direction in a row.
const BUDGET: usize = 16;

/// How a circuit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ended {
    #[error("both sides are done")]
    Done,
    #[error("it carried all the bytes that a circuit may")]
    Bytes,
    #[error("it ran as long as a circuit may")]
    Time,
    #[error("a side broke it off")]
    Broken,
}

/// Whose bytes are counted.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) src: Arc<Meter>,
    pub(crate) dst: Arc<Meter>,
    pub(crate) all: Transferred,
}

/// See the module's documentation.
pub(crate) struct Circuit<S> {
    src: S,
    dst: S,
    forth: Pipe,
    back: Pipe,
    account: Account,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Circuit<S> {
    /// With at most `limit` bytes each way.
    pub(crate) fn new(src: S, dst: S, limit: u64, account: Account) -> Self {
        let pipe = || Pipe {
            left: limit,
            rest: Vec::new(),
            state: State::Open,
        };
        Self {
            src,
            dst,
            forth: pipe(),
            back: pipe(),
            account,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Circuit<S> {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let Self {
            src,
            dst,
            forth,
            back,
            account:
                Account {
                    src: a,
                    dst: b,
                    all,
                },
        } = &mut *self;
        let forth = forth.poll(
            src,
            dst,
            cx,
            |bytes| a.received(bytes),
            |bytes| {
                b.sent(bytes);
                all.add(bytes);
            },
        );
        let back = back.poll(
            dst,
            src,
            cx,
            |bytes| b.received(bytes),
            |bytes| {
                a.sent(bytes);
                all.add(bytes);
            },
        );
        match (forth, back) {
            (Poll::Ready(Err(ended)), _) | (_, Poll::Ready(Err(ended))) => Poll::Ready(ended),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ended::Done),
            _ => Poll::Pending,
        }
    }
}

/// One direction.
struct Pipe {
    /// Bytes that may still come.
    left: u64,
    /// What was read and not taken yet.
    rest: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing more comes; the other side is to be told.
    Closing,
    Closed,
}

impl Pipe {
    fn poll(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
        received: impl Fn(u64),
        sent: impl Fn(u64),
    ) -> Poll<Result<(), Ended>> {
        for _ in 0..BUDGET {
            while !self.rest.is_empty() {
                let written = ready!(write(to, cx, &self.rest))?;
                sent(written as u64);
                self.rest.drain(..written);
                if self.rest.is_empty() {
                    // Its room goes, too: most circuits are idle most of the time.
                    self.rest = Vec::new();
                }
            }
            match self.state {
                State::Open => {
                    let mut chunk = [0; CHUNK];
                    let read = match Pin::new(&mut *from).poll_read(cx, &mut chunk) {
                        Poll::Ready(read) => read.map_err(|_| Ended::Broken)?,
                        Poll::Pending => {
                            // A muxer keeps what is written until it is told to send it.
                            let flushed = Pin::new(&mut *to).poll_flush(cx);
                            return match flushed {
                                Poll::Ready(Err(_)) => Poll::Ready(Err(Ended::Broken)),
                                _ => Poll::Pending,
                            };
                        }
                    };
                    if read == 0 {
                        self.state = State::Closing;
                        continue;
                    }
                    received(read as u64);
                    self.left = self.left.checked_sub(read as u64).ok_or(Ended::Bytes)?;
                    let written = match write(to, cx, &chunk[..read]) {
                        Poll::Ready(written) => written?,
                        Poll::Pending => 0,
                    };
                    sent(written as u64);
                    // Room for just this, and none once it is gone.
                    self.rest = chunk[written..read].to_vec();
                }
                State::Closing => {
                    ready!(Pin::new(&mut *to).poll_close(cx)).map_err(|_| Ended::Broken)?;
                    self.state = State::Closed;
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn write(
    to: &mut (impl AsyncWrite + Unpin),
    cx: &mut Context<'_>,
    bytes: &[u8],
) -> Poll<Result<usize, Ended>> {
    match ready!(Pin::new(to).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(Ended::Broken)),
        Ok(written) => Poll::Ready(Ok(written)),
        Err(_) => Poll::Ready(Err(Ended::Broken)),
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, io::Cursor};
    use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

    use super::*;

    #[tokio::test]
    async fn bytes_go_both_ways_until_both_sides_are_done() {
        let (mut ann, mut bob, circuit, account) = circuit(1 << 20);
        let circuit = tokio::spawn(circuit);
        let sent: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let send = async {
            ann.write_all(&sent).await.unwrap();
            ann.close().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, read) = futures::join!(send, bob.read_to_end(&mut got));
        read.unwrap();
        assert_eq!(got, sent);

        // One side has ended; the other still speaks.
        bob.write_all(b"well").await.unwrap();
        bob.close().await.unwrap();
        let mut answer = Vec::new();
        ann.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"well");
        assert_eq!(circuit.await.unwrap(), Ended::Done);
        assert_eq!(account.src.bytes(), (100_000, 4));
        assert_eq!(account.dst.bytes(), (4, 100_000));
    }

    #[tokio::test]
    async fn each_direction_has_the_whole_limit_to_itself() {
        let (mut ann, mut bob, circuit, _) = circuit(8);
        let circuit = tokio::spawn(circuit);
        let mut got = [0; 8];
        ann.write_all(&[1; 8]).await.unwrap();
        bob.read_exact(&mut got).await.unwrap();
        bob.write_all(&[2; 8]).await.unwrap();
        ann.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [2; 8], "exactly the limit passes, both ways");

        bob.write_all(&[3]).await.unwrap();
        assert_eq!(circuit.await.unwrap(), Ended::Bytes);
        assert_eq!(ann.read(&mut got).await.unwrap(), 0, "and no byte more");
    }

    #[test]
    fn one_busy_circuit_yields() {
        let account = account();
        let endless = |_: usize| Cursor::new(vec![0; 10 * BUDGET * CHUNK]);
        let mut circuit = Circuit::new(endless(0), endless(1), u64::MAX, account.clone());
        assert_eq!((&mut circuit).now_or_never(), None);
        let (received, _) = account.src.bytes();
        assert_eq!(received, (BUDGET * CHUNK) as u64);
    }

    #[tokio::test]
    async fn an_idle_circuit_holds_no_buffer() {
        let (mut ann, mut bob, mut circuit, _) = circuit(1 << 20);
        let sent = vec![7; 2500];
        let mut got = vec![0; sent.len()];
        // More than the far end takes before it reads.
        beside(&mut circuit, ann.write_all(&sent)).await;
        assert!(circuit.forth.rest.capacity() > 0);

        beside(&mut circuit, bob.read_exact(&mut got)).await;

        assert_eq!(got, sent);
        assert_eq!(circuit.forth.rest.capacity(), 0);
    }

    /// Does something while the circuit runs.
    async fn beside(circuit: &mut Circuit<Side>, what: impl Future<Output = std::io::Result<()>>) {
        let mut what = std::pin::pin!(what);
        let done = futures::future::poll_fn(|cx| {
            let done = what.as_mut().poll(cx);
            assert!(Pin::new(&mut *circuit).poll(cx).is_pending());
            done
        });
        done.await.unwrap();
    }

    type Side = Compat<tokio::io::DuplexStream>;

    fn circuit(limit: u64) -> (Side, Side, Circuit<Side>, Account) {
        let [ann, bob] = [(); 2].map(|()| {
            let (a, b) = tokio::io::duplex(1000);
            (a.compat(), b.compat())
        });
        let account = account();
        let circuit = Circuit::new(ann.1, bob.1, limit, account.clone());
        (ann.0, bob.0, circuit, account)
    }

    fn account() -> Account {
        Account {
            src: Arc::default(),
            dst: Arc::default(),
            all: Transferred::default(),
        }
    }
}
