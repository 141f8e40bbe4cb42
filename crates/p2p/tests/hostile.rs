//! Peers that are known, and therefore let in, but slow, wrong or malicious on their streams.
//!
//! Each test runs over TCP and over QUIC and ends with an honest exchange, so that what the peer
//! did is shown to have cost nothing that lasts.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{collections::VecDeque, io, time::Duration};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{PeerId, Stream, StreamProtocol, swarm::ConnectionId};
use libp2p_stream::IncomingStreams;
use pluto_p2p::{
    exchange::{
        self, Budget, Done, Error, Inbound, MAX_READING, MAX_REFUSING, MAX_UNCLAIMED, MAX_WAITING,
        Protocol, Rejected, Rejection, Repeat, Request, Shape, Slot, Step, exchange,
    },
    proto::{self, Frame, NoMeter},
};
use pluto_testkit::{LIMIT, RawPeer, TRANSPORTS, TestNode, config, ids, key, keys, within};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

/// Answered, and safe to repeat.
const ASK: Slot = Slot(0);
const ASK_ID: &str = "/test/ask/1";
/// One way, and safe to repeat.
const TELL: Slot = Slot(1);
const TELL_ID: &str = "/test/tell/1";
/// Answered, and never repeated.
const ONCE: Slot = Slot(2);
const ONCE_ID: &str = "/test/once/1";
/// Answered, in two generations.
const TWO: Slot = Slot(3);
const TWO_IDS: [&str; 2] = ["/test/two/2", "/test/two/1"];

// Inbound.

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_say_nothing_end_and_free_their_places() {
    for transport in TRANSPORTS {
        let rules = Rules {
            read: Duration::from_secs(2),
            ..Rules::default()
        };
        let mut it = Attack::start(transport, rules).await;
        let mut silent = Vec::new();
        for _ in 0..MAX_READING {
            silent.push(it.open(ASK_ID).await);
        }

        // It waits for one of their places.
        it.honest().await;
        for _ in 0..MAX_READING {
            let cause = it.rejected().await;
            assert!(
                matches!(cause, Rejection::Frame(proto::Error::TimedOut { .. })),
                "{cause:?}"
            );
        }
        for mut stream in silent {
            assert!(within(rest(&mut stream)).await.is_empty());
            within(broken_for_writing(&mut stream)).await;
        }
        it.honest().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_none_are_named_and_end_their_stream() {
    type Check = fn(&proto::Error) -> bool;
    let cases: [(&[u8], Check); 5] = [
        (b"", |error| matches!(error, proto::Error::Empty)),
        (b"\x80", |error| {
            matches!(error, proto::Error::TruncatedLength)
        }),
        (b"\x0afour", |error| {
            matches!(
                error,
                proto::Error::Truncated {
                    got: 4,
                    announced: 10
                }
            )
        }),
        // Zero in two bytes, and nine bytes that go on.
        (b"\x80\x00", |error| {
            matches!(error, proto::Error::BadLength)
        }),
        (&[0xff; 9], |error| matches!(error, proto::Error::BadLength)),
    ];
    for transport in TRANSPORTS {
        let mut it = Attack::start(transport, Rules::default()).await;
        for (bytes, check) in cases {
            let mut stream = it.open(ASK_ID).await;
            stream.write_all(bytes).await.unwrap();
            // A stream that is ended already may be refused to be closed; the report is the test.
            let _ = within(stream.close()).await;

            let cause = it.rejected().await;
            assert!(
                matches!(&cause, Rejection::Frame(error) if check(error)),
                "{bytes:?} gave {cause:?}"
            );
            assert!(within(rest(&mut stream)).await.is_empty());
        }
        it.honest().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_announced_too_long_is_reset_before_anything_is_taken_for_it() {
    for transport in TRANSPORTS {
        let rules = Rules::default();
        let (max, budget) = (rules.max_frame, rules.budget.clone());
        let free = budget.available();
        let mut it = Attack::start(transport, rules).await;
        for len in [max as u64 + 1, (1 << 63) - 1] {
            let mut stream = it.open(ASK_ID).await;
            stream.write_all(&length(len)).await.unwrap();
            stream.flush().await.unwrap();

            let cause = it.rejected().await;
            assert!(
                matches!(
                    cause,
                    Rejection::Frame(proto::Error::TooLong { len: said, max: limit })
                        if said == len && limit == max
                ),
                "{cause:?}"
            );
            assert_eq!(budget.available(), free);
            within(broken_for_writing(&mut stream)).await;
        }
        it.honest().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_streams_is_served_in_order_up_to_its_bounds() {
    // QUIC lets a peer open 256 streams and holds the rest back on its side.
    for (transport, flood) in [(TRANSPORTS[0], 2000), (TRANSPORTS[1], 250)] {
        let rules = Rules {
            read: Duration::from_secs(60),
            ..Rules::default()
        };
        let served = flood.min(MAX_READING + MAX_WAITING);
        let mut it = Attack::start(transport, rules).await;
        let mut streams = Vec::new();
        for _ in 0..flood {
            streams.push(it.open(ASK_ID).await);
        }
        if flood > served {
            // Each report stands for one or more.
            let cause = it.rejected().await;
            assert!(matches!(cause, Rejection::Overload), "{cause:?}");
        }
        // All that wait speak, and are not heard yet; so do those that are refused.
        for (n, stream) in streams.iter_mut().enumerate().skip(MAX_READING) {
            // Those beyond all bounds are gone.
            let _ = say(stream, &number(n)).await;
        }

        // The first that is read gives its place to all that wait, one after the other. Those read
        // beside it go last.
        say(&mut streams[0], &number(0)).await.unwrap();
        let waited = MAX_READING..served;
        for n in std::iter::once(0).chain(waited) {
            it.answer(&number(n)).await;
        }
        let beside = streams.iter_mut().enumerate().take(MAX_READING).skip(1);
        for (n, stream) in beside {
            say(stream, &number(n)).await.unwrap();
            it.answer(&number(n)).await;
        }

        for (n, mut stream) in streams.into_iter().enumerate() {
            let said = within(rest(&mut stream)).await;
            if n < served {
                assert_eq!(said, Frame::from_body(&number(n)).as_bytes());
            } else {
                assert!(said.is_empty(), "{n} was served beyond the bounds");
            }
        }
        while let Ok(Rejected { cause, .. }) = it.events.try_recv() {
            assert!(
                flood > served && matches!(cause, Rejection::Overload),
                "{cause:?}"
            );
        }
        it.honest().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_ends_cleanly_and_what_exceeds_even_that_is_reset() {
    let rules = Rules {
        read: Duration::from_secs(60),
        ..Rules::default()
    };
    // Over TCP alone: QUIC's own limit lies below ours.
    let mut it = Attack::start(TRANSPORTS[0], rules).await;
    let mut streams = Vec::new();
    for _ in 0..MAX_READING + MAX_WAITING + MAX_REFUSING + 1 {
        streams.push(it.open(ASK_ID).await);
    }

    let mut last = streams.pop().unwrap();
    within(broken_for_writing(&mut last)).await;
    for mut stream in streams.split_off(MAX_READING + MAX_WAITING) {
        assert!(matches!(it.rejected().await, Rejection::Overload));
        let frame = Frame::from_body(b"too much");
        stream.write_all(frame.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        // Of a reset stream yamux takes no more bytes.
        assert_eq!(within(stream.read(&mut [0])).await.unwrap(), 0);
        stream.write_all(b"whatever follows").await.unwrap();
        stream.close().await.unwrap();
    }
    drop(streams);
    it.honest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_sender_holds_nobody_back() {
    for transport in TRANSPORTS {
        let mut it = Attack::start(transport, Rules::default()).await;
        let mut stream = it.open(ASK_ID).await;
        let slowly = tokio::spawn(async move {
            for byte in Frame::from_body(b"one byte at a time").as_bytes() {
                stream.write_all(&[*byte]).await.unwrap();
                stream.flush().await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            stream
        });
        let mut honest = 0;
        while !slowly.is_finished() && honest < 10 {
            it.honest().await;
            honest += 1;
        }
        assert_eq!(honest, 10, "the others had to wait for the slow one");

        it.answer(b"one byte at a time").await;
        let mut stream = slowly.await.unwrap();
        let answer = within(heard(&mut stream)).await.unwrap();
        assert_eq!(answer, b"one byte at a time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_nobody_takes_ends_and_those_before_it_stay() {
    for transport in TRANSPORTS {
        let rules = Rules {
            read: Duration::from_secs(2),
            ..Rules::default()
        };
        let mut it = Attack::start(transport, rules).await;
        for n in 0..=MAX_UNCLAIMED {
            let mut stream = it.open(TELL_ID).await;
            let frame = Frame::from_body(&number(n));
            stream.write_all(frame.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            within(rest(&mut stream)).await;
            // Of a stream that ended well a few bytes more are taken, of a reset one none. Over QUIC
            // there is no reset.
            if transport == TRANSPORTS[0] {
                let reset = stream.write_all(b"x").await.is_err();
                assert_eq!(reset, n == MAX_UNCLAIMED, "{n}");
            }
        }

        let cause = it.rejected().await;
        assert!(matches!(cause, Rejection::Unclaimed), "{cause:?}");
        for n in 0..MAX_UNCLAIMED {
            it.answer(&number(n)).await;
        }
        it.honest().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_when_the_consumer_is_gone_is_refused_or_reset() {
    for transport in TRANSPORTS {
        let mut it = Attack::start(transport, Rules::default()).await;
        it.node.handle.inbound.close();
        for (id, one_way) in [(ASK_ID, false), (TELL_ID, true)] {
            let mut stream = it.open(id).await;
            let frame = Frame::from_body(b"anyone?");
            stream.write_all(frame.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();

            assert!(within(rest(&mut stream)).await.is_empty());
            if transport == TRANSPORTS[0] {
                assert_eq!(stream.write_all(b"x").await.is_err(), one_way, "{id}");
            }
            let _ = stream.close().await;
            let cause = it.rejected().await;
            assert!(matches!(cause, Rejection::NoConsumer), "{cause:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_beyond_the_bounds_is_reset_and_not_said_to_be_taken() {
    let rules = Rules {
        read: Duration::from_secs(60),
        ..Rules::default()
    };
    // Over TCP alone: QUIC's own limit lies below ours.
    let mut it = Attack::start(TRANSPORTS[0], rules).await;
    let mut streams = Vec::new();
    for _ in 0..MAX_READING + MAX_WAITING {
        streams.push(it.open(TELL_ID).await);
    }

    let mut beyond = it.open(TELL_ID).await;

    assert!(matches!(it.rejected().await, Rejection::Overload));
    within(broken_for_writing(&mut beyond)).await;
    drop(streams);
    it.honest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_nobody_answers_ends_without_an_answer() {
    for transport in TRANSPORTS {
        let rules = Rules {
            read: Duration::from_secs(2),
            ..Rules::default()
        };
        let budget = rules.budget.clone();
        let free = budget.available();
        let mut it = Attack::start(transport, rules).await;
        let mut stream = it.open(ASK_ID).await;
        say(&mut stream, b"anyone?").await.unwrap();
        let request = within(it.node.handle.inbound.recv()).await.unwrap();

        assert_eq!(within(stream.read(&mut [0])).await.unwrap(), 0);
        let _ = stream.close().await;
        let cause = it.rejected().await;
        assert!(matches!(cause, Rejection::Unanswered), "{cause:?}");
        // Too late, which harms nobody.
        request.respond(Frame::from_body(b"here"));
        assert_eq!(budget.available(), free);
        it.honest().await;
    }
}

// Outbound.

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_reads_is_named_with_the_step() {
    for transport in TRANSPORTS {
        let rules = Rules {
            write: Duration::from_secs(1),
            max_frame: 16 << 20,
            ..Rules::default()
        };
        let mut it = Attack::start(transport, rules).await;
        let mut incoming = it.raw.serve(ASK_ID);
        // More than any window.
        let began = Instant::now();
        let call = it.call(ASK, &vec![0; 16 << 20]);
        let stream = accept(&mut incoming).await;

        let error = within(call).await.unwrap_err();
        assert!(began.elapsed() < LIMIT / 2, "its deadline ended it");
        assert!(
            matches!(error, Error::TimedOut { peer, step: Step::Writing } if peer == it.raw.id()),
            "{error:?}"
        );
        it.honest_call(&mut incoming).await;
        drop(stream);
        it.honest_call(&mut incoming).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_answers_is_named_with_the_step() {
    for transport in TRANSPORTS {
        let mut it = Attack::start(transport, Rules::default()).await;
        for (slot, id) in [(ASK, ASK_ID), (TELL, TELL_ID)] {
            let mut incoming = it.raw.serve(id);
            let call = it.call_for(slot, b"well?", Duration::from_secs(1));
            let mut stream = accept(&mut incoming).await;
            heard(&mut stream).await.unwrap();

            let error = within(call).await.unwrap_err();
            assert!(
                matches!(error, Error::TimedOut { peer, step: Step::Reading } if peer == it.raw.id()),
                "{error:?}"
            );
        }
        let mut incoming = it.raw.serve(ONCE_ID);
        it.honest_once(&mut incoming).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_long_or_no_frame_is_not_asked_for_again() {
    for transport in TRANSPORTS {
        let rules = Rules::default();
        let max = rules.max_frame;
        let mut it = Attack::start(transport, rules).await;
        let mut incoming = it.raw.serve(ASK_ID);
        for (bytes, too_long) in [(length(max as u64 + 1), true), (vec![0x80, 0x00], false)] {
            let call = it.call(ASK, b"well?");
            let mut stream = accept(&mut incoming).await;
            heard(&mut stream).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            stream.flush().await.unwrap();

            let error = within(call).await.unwrap_err();
            match error {
                Error::TooLong {
                    peer,
                    len,
                    max: limit,
                } if too_long => {
                    assert_eq!((peer, len, limit), (it.raw.id(), max as u64 + 1, max));
                }
                Error::Malformed { peer, source } if !too_long => {
                    assert_eq!(peer, it.raw.id());
                    assert!(matches!(source, proto::Error::BadLength), "{source:?}");
                }
                other => panic!("{other:?}"),
            }
            it.honest_call(&mut incoming).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_answer_is_asked_for_again_only_where_that_is_safe() {
    for transport in TRANSPORTS {
        let mut it = Attack::start(transport, Rules::default()).await;
        let truncate = async |mut stream: Stream| {
            heard(&mut stream).await.unwrap();
            stream.write_all(b"\x0afour").await.unwrap();
            stream.close().await.unwrap();
            rest(&mut stream).await;
        };

        let mut incoming = it.raw.serve(ASK_ID);
        let call = it.call(ASK, b"well?");
        for _ in 0..2 {
            truncate(accept(&mut incoming).await).await;
        }
        let mut stream = accept(&mut incoming).await;
        heard(&mut stream).await.unwrap();
        say(&mut stream, b"well").await.unwrap();
        assert_eq!(&within(call).await.unwrap().body[..], b"well");

        let mut incoming = it.raw.serve(ONCE_ID);
        let call = it.call(ONCE, b"well?");
        truncate(accept(&mut incoming).await).await;
        let error = within(call).await.unwrap_err();
        assert!(
            matches!(&error, Error::Interrupted { peer, source }
                if *peer == it.raw.id() && source.kind() == io::ErrorKind::UnexpectedEof),
            "{error:?}"
        );
        it.honest_once(&mut incoming).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_stream_is_no_refusal_and_no_confirmation() {
    // Over TCP alone: a stream that is dropped over QUIC ends cleanly.
    let mut it = Attack::start(TRANSPORTS[0], Rules::default()).await;
    for (slot, id) in [(ASK, ASK_ID), (TELL, TELL_ID)] {
        let mut incoming = it.raw.serve(id);
        let call = it.call(slot, b"well?");
        for _ in 0..2 {
            let mut stream = accept(&mut incoming).await;
            heard(&mut stream).await.unwrap();
            drop(stream);
        }
        let mut stream = accept(&mut incoming).await;
        heard(&mut stream).await.unwrap();
        if slot == ASK {
            say(&mut stream, b"well").await.unwrap();
        } else {
            stream.close().await.unwrap();
        }
        within(rest(&mut stream)).await;
        within(call).await.unwrap();
    }

    let mut incoming = it.raw.serve(ONCE_ID);
    let call = it.call(ONCE, b"well?");
    let mut stream = accept(&mut incoming).await;
    heard(&mut stream).await.unwrap();
    drop(stream);
    let error = within(call).await.unwrap_err();
    assert!(
        matches!(&error, Error::Interrupted { peer, source }
            if *peer == it.raw.id() && source.kind() == io::ErrorKind::ConnectionReset),
        "{error:?}"
    );
    it.honest_once(&mut incoming).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_breaks_every_time_ends_with_its_deadline_as_interrupted() {
    for transport in TRANSPORTS {
        let mut it = Attack::start(transport, Rules::default()).await;
        let mut incoming = it.raw.serve(ASK_ID);
        let began = Instant::now();
        let mut call = it.call_for(ASK, b"well?", Duration::from_secs(1));
        let mut attempts = 0;
        let error = loop {
            tokio::select! {
                result = within(&mut call) => break result.unwrap_err(),
                mut stream = accept(&mut incoming) => {
                    attempts += 1;
                    heard(&mut stream).await.unwrap();
                    stream.write_all(b"\x0afour").await.unwrap();
                    stream.close().await.unwrap();
                }
            }
        };

        // Whoever reads this must know that the peer has heard the request.
        assert!(
            matches!(&error, Error::Interrupted { peer, .. } if *peer == it.raw.id()),
            "{error:?}"
        );
        assert!(attempts > 1, "it was not repeated");
        assert!(attempts < 6, "it was repeated without waiting");
        assert!(began.elapsed() >= Duration::from_secs(1));
        it.honest_call(&mut incoming).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_hears_the_request_and_vanishes_has_interrupted_it() {
    // Over TCP alone: over QUIC ten seconds pass before anybody notices.
    for (slot, id) in [(ASK, ASK_ID), (ONCE, ONCE_ID)] {
        let mut it = Attack::start(TRANSPORTS[0], Rules::default()).await;
        let mut incoming = it.raw.serve(id);
        let call = it.call_for(slot, b"well?", Duration::from_secs(2));
        let mut stream = accept(&mut incoming).await;
        heard(&mut stream).await.unwrap();
        // Its connection is gone with it, and so is everything it serves.
        let key = it.raw.key.clone();
        it.raw = RawPeer::start(key).await;

        let error = within(call).await.unwrap_err();
        assert!(
            matches!(&error, Error::Interrupted { peer, .. } if *peer == it.raw.id()),
            "{error:?}"
        );
        it.connect().await;
        it.honest().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_serves_no_id_is_told_apart_before_it_processes_anything() {
    for transport in TRANSPORTS {
        let rules = Rules {
            max_frame: 1 << 20,
            ..Rules::default()
        };
        let mut it = Attack::start(transport, rules).await;
        for size in [0, 1 << 10, 1 << 20] {
            for (slot, ids) in [
                (ASK, &[ASK_ID][..]),
                (TELL, &[TELL_ID]),
                (ONCE, &[ONCE_ID]),
                (TWO, &TWO_IDS),
            ] {
                let call = it.call_for(slot, &vec![0; size], Duration::from_secs(10));
                match within(call).await.unwrap_err() {
                    Error::Unsupported { peer, offered } => {
                        assert_eq!((peer, &offered[..]), (it.raw.id(), &protocol_ids(ids)[..]));
                    }
                    other => panic!("{ids:?} with {size} bytes: {other:?}"),
                }
            }
        }
        let mut incoming = it.raw.serve(ASK_ID);
        it.honest_call(&mut incoming).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_ids_the_one_that_is_served_is_taken() {
    for transport in TRANSPORTS {
        let it = Attack::start(transport, Rules::default()).await;
        let mut raw = it.raw;
        let mut incoming = raw.serve(TWO_IDS[1]);
        let by = Instant::now() + LIMIT;
        let call = it
            .node
            .handle
            .calls
            .call(raw.id(), TWO, Frame::from_body(b"old?"), by)
            .unwrap();
        let mut stream = accept(&mut incoming).await;
        assert_eq!(heard(&mut stream).await.unwrap(), b"old?");
        say(&mut stream, b"old").await.unwrap();
        let done = within(call).await.unwrap();
        assert_eq!(done.id.as_ref(), TWO_IDS[1]);
        assert_eq!(&done.body[..], b"old");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_final_even_where_repeating_is_safe() {
    for transport in TRANSPORTS {
        let mut it = Attack::start(transport, Rules::default()).await;
        let mut incoming = it.raw.serve(ASK_ID);
        let call = it.call(ASK, b"please");
        let mut stream = accept(&mut incoming).await;
        heard(&mut stream).await.unwrap();
        stream.close().await.unwrap();
        let error = within(call).await.unwrap_err();
        assert!(
            matches!(error, Error::Refused { peer } if peer == it.raw.id()),
            "{error:?}"
        );
        // The next stream is the honest one.
        it.honest_call(&mut incoming).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_call_resets_its_stream() {
    for transport in TRANSPORTS {
        let rules = Rules {
            max_frame: 16 << 20,
            ..Rules::default()
        };
        let mut it = Attack::start(transport, rules).await;
        let mut incoming = it.raw.serve(ASK_ID);

        // While the peer thinks about the answer.
        let call = it.call(ASK, b"well?");
        let mut stream = accept(&mut incoming).await;
        heard(&mut stream).await.unwrap();
        drop(call);
        within(broken_for_writing(&mut stream)).await;

        // While the request is being written.
        let call = it.call(ASK, &vec![0; 16 << 20]);
        let mut stream = accept(&mut incoming).await;
        stream.read_exact(&mut [0; 1024]).await.unwrap();
        drop(call);
        within(broken_for_writing(&mut stream)).await;
        assert!(within(rest(&mut stream)).await.len() < 16 << 20);
        it.honest_call(&mut incoming).await;
    }
}

// What all share.

#[tokio::test(flavor = "multi_thread")]
async fn a_full_budget_pauses_reading_until_a_frame_is_done_with() {
    const FRAME: usize = 64 << 10;
    for transport in TRANSPORTS {
        let rules = Rules {
            read: LIMIT,
            max_frame: FRAME,
            // For two frames and a half.
            budget: Budget::new(FRAME, FRAME * 5 / 2),
            ..Rules::default()
        };
        let budget = rules.budget.clone();
        let free = budget.available();
        let keys = keys::<4>();
        let known = ids(&keys);
        let (mut node, mut events) = node(transport, &known, rules).await;
        let mut held = VecDeque::new();
        let mut senders = JoinSet::new();
        let mut raws = Vec::new();
        for (n, key) in keys.into_iter().enumerate() {
            let mut raw = RawPeer::start(key).await;
            assert!(raw.dial(node.id(), &node.addresses[0]).await);
            let mut stream = raw.open(node.id(), ASK_ID).await.unwrap();
            raws.push(raw);
            senders.spawn(async move {
                let frame = Frame::from_body(&[7; FRAME]);
                for part in frame.as_bytes().chunks(FRAME / 10) {
                    stream.write_all(part).await.unwrap();
                    stream.flush().await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                stream.close().await.unwrap();
                within(heard(&mut stream)).await.unwrap()
            });
            // Two find room, the third finds half of it, and each waits for the one before.
            if n >= 2 {
                within(async {
                    while budget.available() >= proto::CHUNK {
                        tokio::task::yield_now().await;
                    }
                })
                .await;
                assert!(node.handle.inbound.try_recv().is_err());
                let done: Request = held.pop_front().unwrap();
                done.respond(Frame::from_body(b"ok"));
            }
            let request = within(node.handle.inbound.recv()).await.unwrap();
            assert_eq!(request.body.len(), FRAME);
            held.push_back(request);
            assert!(held.len() * FRAME + budget.available() <= free);
        }

        for request in held {
            request.respond(Frame::from_body(b"ok"));
        }
        while let Some(answer) = within(senders.join_next()).await {
            assert_eq!(answer.unwrap(), b"ok");
        }
        assert_eq!(budget.available(), free);
        assert!(events.try_recv().is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn halves_of_frames_that_fill_the_budget_time_out_and_give_it_back() {
    const FRAME: usize = 64 << 10;
    for transport in TRANSPORTS {
        let rules = Rules {
            read: Duration::from_secs(2),
            max_frame: FRAME,
            budget: Budget::new(FRAME, FRAME),
            ..Rules::default()
        };
        let budget = rules.budget.clone();
        let keys = keys::<4>();
        let known = ids(&keys);
        let (mut node, mut events) = node(transport, &known, rules).await;
        let mut peers = Vec::new();
        for key in keys {
            let mut raw = RawPeer::start(key).await;
            assert!(raw.dial(node.id(), &node.addresses[0]).await);
            peers.push(raw);
        }
        // All announce all of it and send half of it: none can be completed.
        let mut streams = Vec::new();
        for raw in &mut peers {
            let mut stream = raw.open(node.id(), ASK_ID).await.unwrap();
            stream.write_all(&length(FRAME as u64)).await.unwrap();
            stream.write_all(&[0; FRAME / 2]).await.unwrap();
            stream.flush().await.unwrap();
            streams.push(stream);
        }

        for _ in &peers {
            let Some(Rejected { cause, .. }) = within(events.recv()).await else {
                panic!("the node has ended");
            };
            assert!(
                matches!(cause, Rejection::Frame(proto::Error::TimedOut { .. })),
                "{cause:?}"
            );
        }
        assert_eq!(budget.available(), FRAME);
        drop(streams);
        for raw in peers {
            let connection = only_connection(&node, raw.id());
            let mut it = Attack {
                node,
                events,
                raw,
                connection,
            };
            it.honest().await;
            (node, events) = (it.node, it.events);
        }
    }
}

/// What the exchange is built with.
struct Rules {
    read: Duration,
    write: Duration,
    max_frame: usize,
    budget: Budget,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            read: Duration::from_secs(10),
            write: Duration::from_secs(10),
            max_frame: 64 << 10,
            budget: Budget::default(),
        }
    }
}

/// The ends of a node's exchange.
struct Ends {
    calls: exchange::Handle,
    inbound: Inbound,
}

/// A node, a peer without manners, and the one connection between them.
struct Attack {
    node: TestNode<Ends>,
    events: mpsc::Receiver<Rejected>,
    raw: RawPeer,
    connection: ConnectionId,
}

impl Attack {
    async fn start(transport: &str, rules: Rules) -> Self {
        let raw = RawPeer::start(key()).await;
        let (node, events) = node(transport, &[raw.id()], rules).await;
        let mut attack = Self {
            node,
            events,
            raw,
            connection: ConnectionId::new_unchecked(0),
        };
        attack.connect().await;
        attack
    }

    async fn connect(&mut self) {
        assert!(self.raw.dial(self.node.id(), &self.node.addresses[0]).await);
        within(self.node.context.connected(self.raw.id()))
            .await
            .unwrap();
        self.connection = only_connection(&self.node, self.raw.id());
    }

    async fn open(&mut self, id: &'static str) -> Stream {
        self.raw.open(self.node.id(), id).await.unwrap()
    }

    /// Why the next stream came to nothing.
    async fn rejected(&mut self) -> Rejection {
        let rejected = within(self.events.recv()).await.unwrap();
        let (peer, connection) = (rejected.peer, rejected.connection);
        assert_eq!((peer, connection), (self.raw.id(), self.connection));
        rejected.cause
    }

    /// Answers the next request, which is this, with itself.
    async fn answer(&mut self, body: &[u8]) {
        let request = within(self.node.handle.inbound.recv()).await.unwrap();
        assert_eq!(request.body, body);
        assert_eq!(request.connection, self.connection);
        request.respond(Frame::from_body(body));
    }

    /// The peer asks as it should on the connection that it misused.
    async fn honest(&mut self) {
        let mut stream = self.open(ASK_ID).await;
        say(&mut stream, b"honest").await.unwrap();
        self.answer(b"honest").await;
        assert_eq!(within(heard(&mut stream)).await.unwrap(), b"honest");
    }

    fn call(&self, slot: Slot, body: &[u8]) -> exchange::Call {
        self.call_for(slot, body, LIMIT)
    }

    fn call_for(&self, slot: Slot, body: &[u8], limit: Duration) -> exchange::Call {
        let (frame, by) = (Frame::from_body(body), Instant::now() + limit);
        let calls = &self.node.handle.calls;
        calls.call(self.raw.id(), slot, frame, by).unwrap()
    }

    /// The node asks, and the peer answers as it should.
    async fn honest_call(&self, incoming: &mut IncomingStreams) {
        self.honest_on(ASK, incoming).await;
    }

    async fn honest_once(&self, incoming: &mut IncomingStreams) {
        self.honest_on(ONCE, incoming).await;
    }

    async fn honest_on(&self, slot: Slot, incoming: &mut IncomingStreams) {
        let call = self.call(slot, b"honest");
        let mut stream = accept(incoming).await;
        assert_eq!(within(heard(&mut stream)).await.unwrap(), b"honest");
        say(&mut stream, b"honest, too").await.unwrap();
        let Done {
            body, connection, ..
        } = within(call).await.unwrap();
        assert_eq!(&body[..], b"honest, too");
        assert_eq!(connection, self.connection);
    }
}

async fn node(
    transport: &str,
    known: &[PeerId],
    rules: Rules,
) -> (TestNode<Ends>, mpsc::Receiver<Rejected>) {
    TestNode::start_observed(config(&key(), &[transport]), known, |builder| {
        let (context, budget) = (builder.p2p_context(), rules.budget.clone());
        let (behaviour, calls, inbound) = exchange(context, budget, protocols(&rules));
        (behaviour, Ends { calls, inbound })
    })
    .await
}

fn only_connection(node: &TestNode<Ends>, peer: PeerId) -> ConnectionId {
    let view = node.context.view();
    match &view.peer(&peer).unwrap().paths[..] {
        [path] => path.connection,
        paths => panic!("{paths:?}"),
    }
}

fn protocols(rules: &Rules) -> Vec<Protocol> {
    let protocol = |ids: &[&'static str], shape, repeat| Protocol {
        ids: protocol_ids(ids),
        shape,
        repeat,
        max_frame: rules.max_frame,
        read_timeout: rules.read,
        write_timeout: rules.write,
    };
    vec![
        protocol(&[ASK_ID], Shape::RequestResponse, Repeat::Safe),
        protocol(&[TELL_ID], Shape::OneWay, Repeat::Safe),
        protocol(&[ONCE_ID], Shape::RequestResponse, Repeat::Never),
        protocol(&TWO_IDS, Shape::RequestResponse, Repeat::Safe),
    ]
}

fn protocol_ids(ids: &[&'static str]) -> Vec<StreamProtocol> {
    ids.iter().copied().map(StreamProtocol::new).collect()
}

/// The length prefix of a frame.
fn length(len: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(len, &mut bytes);
    bytes
}

fn number(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap().to_be_bytes()
}

async fn accept(incoming: &mut IncomingStreams) -> Stream {
    within(incoming.next()).await.unwrap().1
}

/// Sends one frame and closes.
async fn say(stream: &mut Stream, body: &[u8]) -> io::Result<()> {
    within(async {
        stream.write_all(Frame::from_body(body).as_bytes()).await?;
        stream.close().await
    })
    .await
}

/// Reads one frame.
async fn heard(stream: &mut Stream) -> Result<Vec<u8>, proto::Error> {
    let body = proto::read_body(stream, 32 << 20, LIMIT, &mut NoMeter).await?;
    Ok(body.to_vec())
}

/// Reads until the other side ends the stream in whatever way.
async fn rest(stream: &mut Stream) -> Vec<u8> {
    let mut said = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = stream.read(&mut buffer).await {
        said.extend_from_slice(&buffer[..len]);
    }
    said
}

/// Writes until the other side no longer takes it. What is written is no frame: an answer that is read in
/// the moment of a cancellation would end the stream well, after which yamux refuses nothing.
async fn broken_for_writing(stream: &mut Stream) {
    while stream.write_all(&[0xff; 1024]).await.is_ok() && stream.flush().await.is_ok() {}
}
