//! The rules by table, and whole ceremonies in virtual time.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use super::*;

mod sim;

const GRACE: Duration = Duration::from_secs(4);
/// The connection is not relayed.
const DIRECT: bool = false;
const SILENCE: Duration = Duration::from_secs(10);

fn rules(version: Option<CharonVersion>) -> Rules {
    Rules {
        version,
        peer_grace: GRACE,
        silence: SILENCE,
    }
}

fn connection(number: usize) -> ConnectionId {
    ConnectionId::new_unchecked(number)
}

/// A core with `N` others that are connected both ways at step 0; the others' connections are
/// numbered as they are.
fn met<const N: usize>(now: Instant) -> (Core, [PeerId; N]) {
    let peers = [(); N].map(|()| PeerId::random());
    let mut core = Core::new(rules(Some(CharonVersion::V1_11)), peers);
    for (at, peer) in peers.into_iter().enumerate() {
        core.on_connected(peer, connection(at), DIRECT);
        core.on_identified(peer, pluto());
        let ticket = core.take(peer, Some(connection(at)), now).unwrap();
        core.on_reply(peer, ticket, false, "", now);
        let stream = core.on_stream(peer).unwrap();
        assert_eq!(say(&mut core, peer, stream, 0, now), "");
    }
    assert!(core.progress().all_connected());
    while core.next_action().is_some() {}
    (core, peers)
}

fn pluto() -> Who {
    Who {
        kind: Kind::Pluto,
        broadcasts: vec![Generation::V1, Generation::V2],
    }
}

fn valid(step: i64) -> Heard<'static> {
    Heard {
        version: "v1.11",
        signature: Ok(()),
        step,
        shutdown: false,
    }
}

fn say(core: &mut Core, peer: PeerId, stream: u64, step: i64, now: Instant) -> String {
    match core.on_message(peer, stream, valid(step), now) {
        Verdict::Answer { error, .. } => error,
        Verdict::Superseded => panic!("superseded"),
    }
}

/// All orders of `0..n`.
fn orders(n: usize) -> Vec<Vec<usize>> {
    let Some(last) = n.checked_sub(1) else {
        return vec![Vec::new()];
    };
    let insert = |order: Vec<usize>| {
        (0..=order.len()).map(move |at| {
            let mut longer = order.clone();
            longer.insert(at, last);
            longer
        })
    };
    orders(last).into_iter().flat_map(insert).collect()
}

/// The next action that is no news.
fn command(core: &mut Core) -> Option<Action> {
    std::iter::from_fn(|| core.next_action()).find(|action| !matches!(action, Action::News(_)))
}

fn news(core: &mut Core) -> Vec<News> {
    std::iter::from_fn(|| core.next_action())
        .filter_map(|action| match action {
            Action::News(news) => Some(news),
            _ => None,
        })
        .collect()
}

fn barriers_open_with_the_last<const OTHERS: usize>() {
    let now = Instant::now();
    for order in orders(OTHERS + 1) {
        let (mut core, peers) = met::<OTHERS>(now);
        for step in 1..=8u32 {
            for (nth, who) in order.iter().enumerate() {
                match peers.get(*who) {
                    Some(peer) => assert_eq!(say(&mut core, *peer, 1, step.into(), now), ""),
                    None => core.set_step(Step(step), now),
                }
                let progress = core.progress();
                let open = progress.all_at(Step(step)) && progress.step == Step(step);
                assert_eq!(open, nth == OTHERS, "{order:?}, step {step}, after {nth}");
            }
        }
        assert_eq!(core.progress().ended, None);
    }
}

#[test]
fn a_barrier_opens_with_the_last_of_three_in_whatever_order_they_come() {
    barriers_open_with_the_last::<2>();
}

#[test]
fn a_barrier_opens_with_the_last_of_four_in_whatever_order_they_come() {
    barriers_open_with_the_last::<3>();
}

#[test]
fn a_barrier_opens_with_the_last_of_five_in_whatever_order_they_come() {
    barriers_open_with_the_last::<4>();
}

#[test]
fn steps_that_no_honest_peer_says_end_the_ceremony_with_its_name() {
    let now = Instant::now();
    let first: [(i64, bool); 7] = [
        (-1, false),
        (0, true),
        (1, true),
        (2, false),
        (1 << 40, false),
        (i64::MIN, false),
        (i64::MAX, false),
    ];
    for (step, fine) in first {
        let peer = PeerId::random();
        let mut core = Core::new(rules(Some(CharonVersion::V1_11)), [peer]);
        let stream = core.on_stream(peer).unwrap();
        let error = say(&mut core, peer, stream, step, now);
        let ended = core.progress().ended;
        assert_eq!(ended.is_none(), fine, "{step}");
        assert_eq!(error.is_empty(), fine, "{step}");
        if let Some(reason) = ended {
            assert!(matches!(reason, Reason::Late { reported, .. } if reported == step));
            assert_eq!(reason.peer(), Some(peer));
        }
    }
    let later: [(i64, i64, bool); 9] = [
        (0, 0, true),
        (0, 2, true),
        (0, 3, false),
        (1, 0, false),
        (1, 3, true),
        (1, 4, false),
        (1, -1, false),
        (1, 1 << 40, false),
        (1, i64::MIN, false),
    ];
    for (known, step, fine) in later {
        let peer = PeerId::random();
        let mut core = Core::new(rules(Some(CharonVersion::V1_11)), [peer]);
        let stream = core.on_stream(peer).unwrap();
        assert_eq!(say(&mut core, peer, stream, known, now), "");
        let error = say(&mut core, peer, stream, step, now);
        assert_eq!(error.is_empty(), fine, "{known} to {step}");
        match core.progress().ended {
            None => assert!(fine, "{known} to {step}"),
            Some(Reason::Restarted { reported, .. }) => assert!(reported < known),
            Some(Reason::Jumped { reported, .. }) => assert!(reported > known),
            Some(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn whoever_passed_a_barrier_without_us_ends_the_ceremony_whichever_comes_first() {
    let now = Instant::now();
    let (mut core, [peer]) = met::<1>(now);
    core.set_step(Step(1), now);
    assert_eq!(say(&mut core, peer, 1, 2, now), "");
    assert_ne!(say(&mut core, peer, 1, 3, now), "");
    assert!(matches!(
        core.progress().ended,
        Some(Reason::TooFarAhead { .. })
    ));

    let (mut core, [peer]) = met::<1>(now);
    assert_eq!(say(&mut core, peer, 1, 2, now), "");
    assert_eq!(say(&mut core, peer, 1, 3, now), "");
    core.set_step(Step(1), now);
    assert!(matches!(
        core.progress().ended,
        Some(Reason::TooFarAhead { .. })
    ));
}

#[test]
fn wrong_version_and_foreign_definition_end_it_and_count_for_nothing() {
    let now = Instant::now();
    let cases = [
        ("v1.10", Ok(()), false),
        ("v1.10", Ok(()), true),
        ("latest", Ok(()), true),
        ("v1.11", Err(SignatureFault::Mismatch), false),
        ("v1.11", Err(SignatureFault::TooShort { len: 0 }), true),
    ];
    for (version, signature, shutdown) in cases {
        let peer = PeerId::random();
        let mut core = Core::new(rules(Some(CharonVersion::V1_11)), [peer]);
        let stream = core.on_stream(peer).unwrap();
        let heard = Heard {
            version,
            signature,
            step: 0,
            shutdown,
        };
        let verdict = core.on_message(peer, stream, heard, now);
        let Verdict::Answer { error, close } = verdict else {
            panic!("superseded");
        };
        assert!(!error.is_empty());
        assert_eq!(close, shutdown);
        let progress = core.progress();
        let state = &progress.peers[0];
        assert!(!state.speaks && !state.shutdown && state.step.is_none());
        assert_eq!(progress.ended.unwrap().peer(), Some(peer));
    }
}

#[test]
fn who_is_no_operator_is_not_heard() {
    let now = Instant::now();
    let (mut core, _) = met::<2>(now);
    let stranger = PeerId::random();
    let before = core.progress();
    assert_eq!(core.on_stream(stranger), None);
    assert_eq!(
        core.on_message(stranger, 1, valid(0), now),
        Verdict::Superseded
    );
    core.on_connected(stranger, connection(9), DIRECT);
    core.on_closed(stranger, connection(9), now);
    assert_eq!(core.progress(), before);
}

#[test]
fn what_an_older_stream_still_brings_is_not_believed() {
    let now = Instant::now();
    let (mut core, [peer]) = met::<1>(now);
    core.set_step(Step(1), now);
    let newer = core.on_stream(peer).unwrap();
    // Until the newer one has spoken the older one counts.
    assert_eq!(say(&mut core, peer, 1, 0, now), "");
    assert_eq!(say(&mut core, peer, newer, 1, now), "");
    assert_eq!(core.on_message(peer, 1, valid(0), now), Verdict::Superseded);
    core.on_stream_ended(peer, 1);
    assert!(core.progress().peers[0].speaks);
    assert_eq!(core.progress().ended, None);
    core.on_stream_ended(peer, newer);
    assert!(!core.progress().peers[0].speaks);
}

#[test]
fn a_restart_is_recognised_by_its_first_message() {
    let now = Instant::now();
    let (mut core, [peer, _]) = met::<2>(now);
    core.set_step(Step(1), now);
    assert_eq!(say(&mut core, peer, 1, 1, now), "");
    let again = core.on_stream(peer).unwrap();
    let error = say(&mut core, peer, again, 0, now);
    assert!(
        error.starts_with("detected inconsistent peer sync state"),
        "{error}"
    );
    let reason = core.progress().ended.unwrap();
    assert_eq!(
        reason,
        Reason::Restarted {
            peer,
            step: Step(1),
            known: 1,
            reported: 0
        }
    );
}

#[test]
fn at_step_0_a_peer_may_be_restarted_and_lost_for_as_long_as_it_likes() {
    let now = Instant::now();
    let (mut core, [peer]) = met::<1>(now);
    core.on_closed(peer, connection(0), now);
    core.on_dial_failed(peer, now, &FailureCause::Refused, now);
    let hour = now + Duration::from_secs(3600);
    core.on_time(hour);
    assert_eq!(core.progress().ended, None);
    let again = core.on_stream(peer).unwrap();
    assert_eq!(say(&mut core, peer, again, 0, hour), "");
}

#[test]
fn a_lost_peer_has_its_grace_and_not_a_moment_more() {
    let t0 = Instant::now();
    for refused in [true, false] {
        let (mut core, [peer, other]) = met::<2>(t0);
        core.set_step(Step(1), t0);
        assert_eq!(say(&mut core, other, 1, 1, t0), "");
        core.on_closed(peer, connection(0), t0);
        let missing = News::Missing {
            peer,
            connected: false,
        };
        assert!(news(&mut core).contains(&missing));
        if refused {
            core.on_dial_failed(peer, t0, &FailureCause::Refused, t0);
        } else {
            core.on_dial_failed(peer, t0, &FailureCause::TimedOut, t0);
        }
        let before = t0 + GRACE - Duration::from_millis(1);
        let _ = say(&mut core, other, 1, 1, before);
        core.on_time(before);
        assert_eq!(core.progress().ended, None);
        core.on_time(t0 + GRACE);
        let ended = core.progress().ended;
        if refused {
            let reason = Reason::Lost {
                peer,
                step: Step(1),
                after: GRACE,
                cause: FailureCause::Refused,
            };
            assert_eq!(ended, Some(reason));
        } else {
            assert_eq!(ended, None);
            let _ = say(&mut core, other, 1, 1, t0 + GRACE * 2);
            core.on_time(t0 + SILENCE);
            let reason = Reason::Silent {
                peer,
                step: Step(1),
                after: SILENCE,
                cause: Some(FailureCause::TimedOut),
            };
            assert_eq!(core.progress().ended, Some(reason));
        }
    }
}

#[test]
fn how_a_connection_ended_is_no_refusal() {
    let t0 = Instant::now();
    let (mut core, [peer]) = met::<1>(t0);
    core.set_step(Step(1), t0);
    core.on_closed(peer, connection(0), t0);
    for cause in [FailureCause::Lost, FailureCause::Silent] {
        core.on_dial_failed(peer, t0, &cause, t0);
    }
    // Nor is what was tried before.
    let before = t0 - Duration::from_secs(1);
    core.on_dial_failed(peer, before, &FailureCause::Refused, t0);
    core.on_time(t0 + GRACE);
    assert_eq!(core.progress().ended, None);
}

#[test]
fn a_relay_that_does_not_have_a_peer_refuses_for_it_and_one_that_is_away_does_not() {
    let t0 = Instant::now();
    let relay = PeerId::random();
    let ms = Duration::from_millis;
    let absent = |at, since| Absent {
        at,
        since,
        cause: FailureCause::NoReservation { relay },
    };
    let up = t0 - Duration::from_secs(60);
    let back = t0 + ms(3_000);
    // What connected relays say, and when the peer is lost.
    let table = [
        (
            "one that was there all the time",
            vec![absent(t0, up)],
            Some(t0 + GRACE),
        ),
        (
            "one that was away",
            vec![absent(back, back)],
            Some(back + GRACE),
        ),
        ("before it went away", vec![absent(t0 + ms(1), back)], None),
        (
            "before the peer was lost",
            vec![absent(t0 - ms(1), up)],
            None,
        ),
        (
            "two, of which one was away",
            vec![absent(back, back), absent(back, up)],
            Some(t0 + GRACE),
        ),
        ("none", vec![], None),
    ];
    for (what, said, expected) in table {
        let (mut core, [peer]) = met::<1>(t0);
        core.set_step(Step(1), t0);
        core.on_closed(peer, connection(0), t0);
        let away = FailureCause::RelayNotConnected { relay };
        core.on_dial_failed(peer, t0, &away, t0);
        core.on_absent(peer, said, t0);
        let Some(expected) = expected else {
            core.on_time(t0 + SILENCE - ms(1));
            assert_eq!(core.progress().ended, None, "{what}");
            continue;
        };
        core.on_time(expected - ms(1));
        assert_eq!(core.progress().ended, None, "{what}");
        core.on_time(expected);
        let ended = core.progress().ended;
        assert!(
            matches!(
                &ended,
                Some(Reason::Lost { cause: FailureCause::NoReservation { .. }, after, .. })
                    if *after == expected - t0
            ),
            "{what}: {ended:?}"
        );
    }
}

#[test]
fn a_refusal_counts_where_the_peer_was_reached_without_a_relay() {
    let t0 = Instant::now();
    let lost = |relayed: &[bool]| {
        let (mut core, [peer]) = met::<1>(t0);
        core.set_step(Step(1), t0);
        // What came before is over.
        core.on_closed(peer, connection(0), t0);
        for (at, relayed) in (1..).zip(relayed) {
            core.on_connected(peer, connection(at), *relayed);
        }
        for at in 1..=relayed.len() {
            core.on_closed(peer, connection(at), t0);
        }
        core.on_dial_failed(peer, t0, &FailureCause::Refused, t0);
        core.on_time(t0 + GRACE);
        core.progress().ended.is_some()
    };
    assert!(!lost(&[true]), "its router refused");
    assert!(!lost(&[true, true]));
    assert!(lost(&[false]));
    assert!(lost(&[false, true]));
    assert!(lost(&[true, false]));
}

#[test]
fn what_a_relay_said_before_it_went_away_is_forgotten() {
    let t0 = Instant::now();
    let relay = PeerId::random();
    let (mut core, [peer]) = met::<1>(t0);
    core.set_step(Step(1), t0);
    core.on_closed(peer, connection(0), t0);
    let dying = Absent {
        at: t0,
        since: t0 - Duration::from_secs(60),
        cause: FailureCause::NoReservation { relay },
    };
    core.on_absent(peer, [dying], t0);
    assert!(core.next_deadline().is_some_and(|at| at <= t0 + GRACE));
    core.on_absent(peer, [], t0);
    core.on_time(t0 + GRACE);
    assert_eq!(core.progress().ended, None);
}

#[test]
fn a_loss_that_heals_is_shown_and_forgotten() {
    let t0 = Instant::now();
    let (mut core, [peer]) = met::<1>(t0);
    core.set_step(Step(1), t0);
    core.on_closed(peer, connection(0), t0);
    core.on_stream_ended(peer, 1);
    core.on_dial_failed(peer, t0, &FailureCause::Refused, t0);
    let back = t0 + GRACE - Duration::from_millis(1);
    core.on_time(back);
    core.on_connected(peer, connection(5), DIRECT);
    let stream = core.on_stream(peer).unwrap();
    assert_eq!(say(&mut core, peer, stream, 1, back), "");
    let healed = News::Healed {
        peer,
        after: back - t0,
    };
    assert!(news(&mut core).contains(&healed));
    core.on_time(back + GRACE);
    assert_eq!(core.progress().ended, None);
}

#[test]
fn a_silent_peer_is_asked_for_shown_and_in_the_end_given_up() {
    let t0 = Instant::now();
    let (mut core, [peer]) = met::<1>(t0);
    core.set_step(Step(3), t0);
    assert_eq!(core.next_deadline(), Some(t0 + QUIET));
    core.on_time(t0 + QUIET);
    let missing = News::Missing {
        peer,
        connected: true,
    };
    assert!(news(&mut core).contains(&missing));
    assert_eq!(core.next_deadline(), Some(t0 + SILENCE));
    core.on_time(t0 + SILENCE);
    let reason = core.progress().ended.unwrap();
    assert!(
        matches!(reason, Reason::Silent { step: Step(3), .. }),
        "{reason:?}"
    );
    assert_eq!(core.next_deadline(), None);
}

#[test]
fn what_became_of_dials_before_it_was_back_is_no_cause_of_a_later_silence() {
    let t0 = Instant::now();
    let (mut core, [peer]) = met(t0);
    core.set_step(Step(1), t0);
    say(&mut core, peer, 1, 1, t0);
    core.on_closed(peer, connection(0), t0);
    core.on_dial_failed(peer, t0, &FailureCause::TimedOut, t0);
    core.on_connected(peer, connection(7), DIRECT);

    core.on_time(t0 + SILENCE);

    let after = SILENCE;
    let step = Step(1);
    assert_eq!(
        core.progress().ended,
        Some(Reason::Silent {
            peer,
            step,
            after,
            cause: None,
        })
    );
}

#[test]
fn a_single_operator_waits_for_nobody() {
    let mut core = Core::new(rules(None), []);
    let progress = core.progress();
    assert_eq!(progress.version, Some(CharonVersion::NEWEST));
    assert!(progress.all_connected() && progress.all_at(Step(0)));
    assert!(progress.agreement().is_some());
    core.set_step(Step(1), Instant::now());
    core.set_shutdown();
    let progress = core.progress();
    assert!(progress.all_at(Step(1)) && progress.all_shut());
}

#[test]
fn every_ending_of_the_stream_gives_the_claim_back() {
    let t0 = Instant::now();
    let later = t0 + Duration::from_secs(1);
    let (mut core, [peer]) = met::<1>(t0);
    let claim = |avoid| Action::Claim { peer, avoid };

    // 1. The stream ends; the same connection may have it again.
    core.on_claim_ended(peer, 1, End::Broken, later);
    assert_eq!(command(&mut core), Some(claim(Some(connection(0)))));
    assert!(!core.progress().peers[0].answers);
    let second = core.take(peer, Some(connection(0)), later).unwrap();
    // An ending of an earlier holder is not one of this.
    core.on_claim_ended(peer, 1, End::Broken, later);
    assert_eq!(core.claimed(peer), Some(connection(0)));
    assert_eq!(command(&mut core), None);

    // 2. With a second connection, the first closes: the second takes over.
    core.on_connected(peer, connection(1), DIRECT);
    core.on_closed(peer, connection(0), later);
    assert_eq!(command(&mut core), Some(claim(Some(connection(0)))));
    let third = core.take(peer, Some(connection(1)), later).unwrap();
    core.on_claim_ended(peer, second, End::Broken, later);
    assert_eq!(core.claimed(peer), Some(connection(1)));

    // 3. With a second connection, the other one closes: nothing changes.
    core.on_connected(peer, connection(2), DIRECT);
    core.on_closed(peer, connection(2), later);
    assert_eq!(core.claimed(peer), Some(connection(1)));

    // 4. Never answered: it rests first, longer each time, and a new connection ends the rest.
    core.on_claim_ended(peer, third, End::Broken, later);
    assert_eq!(command(&mut core), None);
    core.on_time(later + REOPEN_MIN);
    assert_eq!(command(&mut core), Some(claim(Some(connection(1)))));
    let fourth = core.take(peer, Some(connection(1)), later).unwrap();
    core.on_claim_ended(peer, fourth, End::Broken, later);
    core.on_time(later + REOPEN_MIN);
    assert_eq!(command(&mut core), None);
    core.on_connected(peer, connection(3), DIRECT);
    assert_eq!(command(&mut core), Some(claim(Some(connection(1)))));

    // 5. The connection chosen has closed before it could be taken.
    core.on_closed(peer, connection(3), later);
    assert_eq!(core.take(peer, Some(connection(3)), later), None);
    core.on_connected(peer, connection(4), DIRECT);
    assert_eq!(command(&mut core), Some(claim(Some(connection(1)))));
    let fifth = core.take(peer, Some(connection(4)), later).unwrap();

    // 6. A better path: the stream ends in peace, and moves at once.
    core.on_better_path(peer);
    core.on_better_path(peer);
    let release = Action::Release {
        peer,
        connection: connection(4),
        ticket: fifth,
    };
    assert_eq!(command(&mut core), Some(release));
    assert_eq!(command(&mut core), None, "asked once");
    core.on_claim_ended(peer, fifth, End::Broken, later);
    assert_eq!(command(&mut core), Some(claim(None)));
    let sixth = core.take(peer, Some(connection(1)), later).unwrap();

    // 7. Done is done.
    core.set_shutdown();
    core.on_reply(peer, sixth, true, "whatever", later);
    core.on_claim_ended(peer, sixth, End::Done, later);
    core.on_connected(peer, connection(5), DIRECT);
    assert_eq!(command(&mut core), None);
    assert_eq!(core.progress().ended, None);
}

#[test]
fn a_text_in_a_reply_ends_the_ceremony_in_its_words() {
    let now = Instant::now();
    let (mut core, [peer, other]) = met::<2>(now);
    core.set_step(Step(2), now);
    let long = "ö".repeat(MAX_TEXT);
    core.on_reply(peer, 1, false, &long, now);
    let Some(Reason::Told {
        peer: by,
        step,
        text,
    }) = core.progress().ended
    else {
        panic!("{:?}", core.progress().ended);
    };
    assert_eq!((by, step, text.len()), (peer, Step(2), MAX_TEXT));
    // All others hear it from us, with the name.
    let error = say(&mut core, other, 1, 0, now);
    assert!(
        error.contains(&peer.to_string()) && error.contains("öö"),
        "{error}"
    );
    assert!(!core.progress().all_know_end());
    core.on_end_known(other);
    core.on_end_known(peer);
    assert!(core.progress().all_know_end());
}

#[test]
fn a_node_of_ours_knows_the_end_when_it_speaks_again_and_a_charon_when_it_was_sent() {
    let (mut core, [ours, charon]) = met::<2>(Instant::now());
    let kind = Kind::Charon(CharonVersion::V1_11);
    core.on_identified(charon, Who { kind, ..pluto() });
    let text = "enough".to_owned();
    core.end(Reason::Ours { text });

    core.on_end_sent(charon);
    core.on_end_sent(ours);
    assert!(!core.progress().all_know_end());
    core.on_end_known(ours);
    assert!(core.progress().all_know_end());
}

#[test]
fn who_has_finished_is_not_missed_and_who_has_not_is() {
    let t0 = Instant::now();
    let done = Heard {
        shutdown: true,
        ..valid(0)
    };
    let (mut core, [peer, other]) = met::<2>(t0);
    core.set_step(Step(1), t0);
    let _ = say(&mut core, other, 1, 1, t0);
    core.on_message(peer, 1, Heard { step: 1, ..done }, t0);
    core.set_shutdown();
    core.on_closed(peer, connection(0), t0);
    core.on_dial_failed(peer, t0, &FailureCause::Refused, t0);
    core.on_time(t0 + GRACE);
    assert_eq!(core.progress().ended, None);
    assert!(core.progress().peers[0].finished);
    assert!(!core.progress().all_shut());

    core.on_closed(other, connection(1), t0 + GRACE);
    core.on_dial_failed(other, t0 + GRACE, &FailureCause::Refused, t0 + GRACE);
    core.on_time(t0 + GRACE * 2);
    let reason = core.progress().ended.unwrap();
    assert_eq!(reason.peer(), Some(other));
}

#[test]
fn who_speaks_before_its_identify_is_not_connected_until_it_has_come() {
    let now = Instant::now();
    let [known, fast] = [(); 2].map(|()| PeerId::random());
    let mut core = Core::new(rules(None), [known, fast]);
    core.on_identified(known, pluto());
    for (at, peer) in [known, fast].into_iter().enumerate() {
        core.on_connected(peer, connection(at), DIRECT);
        let stream = core.on_stream(peer).unwrap();
        assert_eq!(say(&mut core, peer, stream, 0, now), "");
        let ticket = core.take(peer, Some(connection(at)), now).unwrap();
        core.on_reply(peer, ticket, false, "", now);
    }
    assert_eq!(core.tell().version, Some(CharonVersion::V1_11));
    assert!(!core.progress().all_connected());
    let _ = core.take_progress();

    core.on_identified(fast, pluto());
    let progress = core.take_progress().expect("it is told");
    assert!(progress.all_connected());
    let agreed = progress.agreement().unwrap();
    assert_eq!(agreed.broadcast, Some(Generation::V2));
}

#[test]
fn the_version_follows_from_the_charons_and_is_the_newest_without_any() {
    let who = |kind| Who {
        kind,
        broadcasts: vec![Generation::V1],
    };
    let [a, b, c] = [(); 3].map(|()| PeerId::random());
    let charon = |version| who(Kind::Charon(version));

    // One Charon is enough to know.
    let mut core = Core::new(rules(None), [a, b, c]);
    core.on_connected(a, connection(0), DIRECT);
    core.on_connected(b, connection(1), DIRECT);
    core.on_identified(a, who(Kind::Pluto));
    assert_eq!(core.tell().version, None);
    core.on_identified(b, charon(CharonVersion::V1_10));
    assert_eq!(core.tell().version, Some(CharonVersion::V1_10));
    let claims = std::iter::from_fn(|| core.next_action())
        .filter(|action| matches!(action, Action::Claim { .. }))
        .count();
    assert_eq!(claims, 2, "both that wait for it");
    assert_eq!(
        core.progress().agreement().unwrap().broadcast,
        None,
        "c is unknown"
    );

    // Two that differ end it before anything is said.
    core.on_identified(c, charon(CharonVersion::V1_11));
    let reason = core.progress().ended.unwrap();
    assert!(
        matches!(reason, Reason::Version { peer, .. } if peer == c),
        "{reason:?}"
    );

    // Among ours it is known once all are.
    let mut core = Core::new(rules(None), [a, b]);
    core.on_identified(a, who(Kind::Pluto));
    assert_eq!(core.tell().version, None);
    core.on_identified(b, who(Kind::Pluto));
    assert_eq!(core.tell().version, Some(CharonVersion::NEWEST));
    assert_eq!(
        core.progress().agreement().unwrap().broadcast,
        Some(Generation::V1)
    );

    // A Charon that is not spoken.
    let mut core = Core::new(rules(None), [a, b]);
    core.on_identified(a, who(Kind::Stranger("v1.12.0".to_owned())));
    let reason = core.progress().ended.unwrap();
    assert!(reason.to_string().contains("v1.12.0"), "{reason}");

    // Pinned is pinned.
    let mut core = Core::new(rules(Some(CharonVersion::V1_10)), [a, b]);
    core.on_identified(a, charon(CharonVersion::V1_11));
    assert_eq!(core.tell().version, Some(CharonVersion::V1_10));
    assert_eq!(core.progress().ended, None);
}

#[test]
fn whoever_speaks_before_identify_tells_the_version_if_it_has_signed() {
    let now = Instant::now();
    let [a, b] = [(); 2].map(|()| PeerId::random());
    let mut core = Core::new(rules(None), [a, b]);
    let stream = core.on_stream(a).unwrap();
    let heard = Heard {
        version: "v1.10",
        ..valid(0)
    };
    core.on_message(a, stream, heard, now);
    assert_eq!(core.tell().version, Some(CharonVersion::V1_10));

    let mut core = Core::new(rules(None), [a, b]);
    let stream = core.on_stream(a).unwrap();
    let heard = Heard {
        signature: Err(SignatureFault::Mismatch),
        ..heard
    };
    core.on_message(a, stream, heard, now);
    assert_eq!(core.tell().version, None);
    assert!(matches!(
        core.progress().ended,
        Some(Reason::Definition { .. })
    ));
}

#[test]
fn news_that_nobody_takes_are_bounded_and_the_end_is_among_them() {
    let now = Instant::now();
    let (mut core, [peer]) = met::<1>(now);
    for step in 1..=3000 {
        assert_eq!(say(&mut core, peer, 1, step, now), "");
    }
    core.end(Reason::Ours {
        text: "enough".to_owned(),
    });
    let news = news(&mut core);
    assert!(news.len() <= MAX_NEWS + 1);
    assert!(matches!(news.last(), Some(News::Ended(_))));
}
