//! What a peer costs in memory that announces a long frame and sends little of it.
//!
//! The allocator of this binary counts, so that its tests run one at a time.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{
    pin::pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::AsyncWriteExt;
use libp2p::StreamProtocol;
use peak_alloc::PeakAlloc;
use pluto_p2p::{
    exchange::{Budget, Protocol, Repeat, Shape, exchange},
    proto::{self, CHUNK, Frame, NoMeter},
};
use pluto_testkit::{LIMIT, RawPeer, TRANSPORTS, TestNode, config, key, within};
use tokio::{runtime::Runtime, task::unconstrained};
use tokio_util::compat::TokioAsyncReadCompatExt;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Held by the test that runs, until its runtime has given back what it held.
static ALONE: Mutex<()> = Mutex::new(());

/// The longest frame of any protocol (p2p spec, section 3.1).
const ANNOUNCED: usize = 128 << 20;
/// What such a peer may cost.
const ALLOWED: usize = 64 << 10;
const ID: &str = "/test/ask/1";

#[test]
fn memory_follows_what_arrives_and_not_what_is_announced() {
    alone(reader());
}

#[test]
fn a_running_node_takes_next_to_nothing_for_what_is_only_announced() {
    alone(running_node());
}

async fn reader() {
    for sent in [0, 1, 1 << 10, CHUNK, 100 << 10, 1 << 20] {
        let mut bytes = Vec::new();
        prost::encoding::encode_varint(ANNOUNCED as u64, &mut bytes);
        bytes.resize(bytes.len() + sent, 7);
        let (near, far) = tokio::io::duplex(bytes.len());
        let (mut near, mut far) = (near.compat(), far.compat());
        near.write_all(&bytes).await.unwrap();
        let mut free = NoMeter;
        let reading = proto::read_body(&mut far, ANNOUNCED, LIMIT, &mut free);
        let mut reading = pin!(unconstrained(reading));

        let grown = Grown::now();
        // Until the pipe is empty, whatever the scheduler thinks of it.
        assert!(futures::poll!(reading.as_mut()).is_pending());
        let grown = grown.most();

        // Twice what arrived while it grows, with as much being copied, and one step ahead.
        assert!(
            grown >= sent && grown <= 3 * sent + 2 * CHUNK,
            "{grown} bytes for {sent}"
        );
        if sent <= 1 << 10 {
            assert!(grown < ALLOWED, "{grown} bytes for {sent}");
        }
    }
}

async fn running_node() {
    for transport in TRANSPORTS {
        let mut raw = RawPeer::start(key()).await;
        let budget = Budget::default();
        let mut node = TestNode::start(config(&key(), &[transport]), &[raw.id()], |builder| {
            let protocols = vec![Protocol {
                ids: vec![StreamProtocol::new(ID)],
                shape: Shape::RequestResponse,
                repeat: Repeat::Safe,
                max_frame: ANNOUNCED,
                read_timeout: Duration::from_secs(60),
                write_timeout: LIMIT,
            }];
            let (behaviour, calls, inbound) =
                exchange(builder.p2p_context(), budget.clone(), protocols);
            (behaviour, (calls, inbound))
        })
        .await;
        assert!(raw.dial(node.id(), &node.addresses[0]).await);
        let before = budget.available();
        let mut stream = raw.open(node.id(), ID).await.unwrap();

        // The raw peer's own share is in here, too.
        let grown = Grown::now();
        let mut bytes = Vec::new();
        prost::encoding::encode_varint(ANNOUNCED as u64, &mut bytes);
        bytes.resize(bytes.len() + (1 << 10), 7);
        stream.write_all(&bytes).await.unwrap();
        stream.flush().await.unwrap();
        taken(&budget, before - CHUNK).await;
        let grown = grown.most();
        assert!(grown < ALLOWED, "{grown} bytes over {transport}");

        // The measure measures: a frame of some size that is sent is taken.
        let mut stream = raw.open(node.id(), ID).await.unwrap();
        let frame = Frame::from_body(&[7; 1 << 20]);
        let grown = Grown::now();
        stream.write_all(frame.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let request = within(node.handle.1.recv()).await.unwrap();
        assert_eq!(request.body.len(), 1 << 20);
        assert!(grown.most() >= 1 << 20);
    }
}

fn alone(test: impl Future<Output = ()>) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = Runtime::new().unwrap();
    runtime.block_on(test);
    drop(runtime);
}

/// Waits until the budget has this much left.
async fn taken(budget: &Budget, left: usize) {
    within(async {
        while budget.available() > left {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Memory beyond that of a moment.
struct Grown(usize);

impl Grown {
    fn now() -> Self {
        MEMORY.reset_peak_usage();
        Self(MEMORY.current_usage())
    }

    fn most(&self) -> usize {
        MEMORY.peak_usage().saturating_sub(self.0)
    }
}
