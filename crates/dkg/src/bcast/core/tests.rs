//! Tables of single steps, and whole clusters of cores: every order in which what is in flight can
//! arrive, and arbitrary orders with repetitions and a liar.

use proptest::prelude::*;

use super::*;

const ID: MessageId = "/charon/dkg/node_sig";
const OTHER: MessageId = "/charon/dkg/frost/2.0.0/round1/cast";

#[test]
fn the_same_may_be_signed_again_and_nothing_else() {
    let mut ledger = Ledger::default();
    assert_eq!(ledger.on_request(peer(1), ID, [7; 32], b"seven"), Ok(()));
    assert_eq!(ledger.on_request(peer(1), ID, [7; 32], b"seven"), Ok(()));

    for (id, from, digest, expected) in [
        (ID, 1, [8; 32], Err(Contradiction { is_new: true })),
        (ID, 1, [9; 32], Err(Contradiction { is_new: false })),
        (ID, 1, [7; 32], Ok(())),
        (ID, 2, [8; 32], Ok(())),
        (OTHER, 1, [8; 32], Ok(())),
    ] {
        let said = ledger.on_request(peer(from), id, digest, b"eight");
        assert_eq!(said, expected, "{id} {from} {digest:?}");
    }
}

#[test]
fn what_we_did_not_say_is_no_evidence_against_us() {
    let mut ledger = Ledger::default();
    assert_eq!(ledger.on_own(peer(0), ID, [7; 32], b"seven"), Ok(()));
    let refused = Err(Contradiction { is_new: false });
    assert_eq!(ledger.on_own(peer(0), ID, [8; 32], b"eight"), refused);
    assert_eq!(ledger.on_own(peer(0), ID, [7; 32], b"seven"), Ok(()));
    assert_eq!(ledger.on_own(peer(0), OTHER, [8; 32], b"eight"), Ok(()));

    assert_eq!(ledger.equivocations().count(), 0);
}

#[test]
fn our_signature_is_remembered_for_its_hash_only() {
    let mut ledger = Ledger::default();
    ledger.on_signed(peer(1), ID, [7; 32], [1; 65]);
    assert_eq!(
        ledger.signature(peer(1), ID, &[7; 32]),
        None,
        "nothing said"
    );

    ledger.on_request(peer(1), ID, [7; 32], b"").unwrap();
    assert_eq!(
        ledger.signature(peer(1), ID, &[7; 32]),
        None,
        "nothing signed"
    );
    ledger.on_signed(peer(1), ID, [7; 32], [1; 65]);
    assert_eq!(ledger.signature(peer(1), ID, &[7; 32]), Some([1; 65]));
    assert_eq!(ledger.signature(peer(1), ID, &[8; 32]), None);
    assert_eq!(ledger.signature(peer(2), ID, &[7; 32]), None);
    assert_eq!(ledger.signature(peer(1), OTHER, &[7; 32]), None);
}

#[test]
fn evidence_holds_both_statements_and_is_bounded() {
    let mut ledger = Ledger::default();
    let long = vec![1; MAX_KEPT + 1];
    ledger.on_request(peer(1), ID, [7; 32], &long[1..]).unwrap();
    assert_eq!(ledger.equivocation(peer(1), ID), None);
    ledger.on_request(peer(1), ID, [8; 32], &long).unwrap_err();
    ledger
        .on_request(peer(1), ID, [9; 32], b"late")
        .unwrap_err();

    let evidence: Vec<_> = ledger.equivocations().collect();
    let [evidence] = &evidence[..] else {
        panic!("{evidence:?}")
    };
    assert_eq!((evidence.peer, evidence.id), (peer(1), ID));
    assert_eq!(evidence.first.digest, [7; 32]);
    assert_eq!(evidence.first.value.as_deref(), Some(&long[1..]));
    assert_eq!(evidence.second.digest, [8; 32]);
    assert_eq!(evidence.second.len, MAX_KEPT + 1);
    assert_eq!(evidence.second.value, None);
}

#[test]
fn only_what_was_signed_for_is_delivered_and_only_once() {
    let mut ledger = Ledger::default();
    ledger.on_request(peer(1), ID, [7; 32], b"").unwrap();

    for (id, from, digest) in [(ID, 1, [8; 32]), (ID, 2, [7; 32]), (OTHER, 1, [7; 32])] {
        let delivery = ledger.on_delivery(peer(from), id, &digest);
        assert_eq!(delivery, Err(NotCollected), "{id} {from} {digest:?}");
        let verified = ledger.on_verified(peer(from), id, &digest);
        assert_eq!(verified, Err(NotCollected), "{id} {from} {digest:?}");
    }
    let deliver = |ledger: &mut Ledger| {
        let before = ledger.on_delivery(peer(1), ID, &[7; 32]);
        (before, ledger.on_verified(peer(1), ID, &[7; 32]))
    };
    let (first, again) = (Ok(Arrival::First), Ok(Arrival::Again));
    assert_eq!(deliver(&mut ledger), (first, first));
    assert_eq!(deliver(&mut ledger), (again, again));
}

#[test]
fn a_liar_can_still_deliver_what_it_said_first() {
    let mut ledger = Ledger::default();
    ledger.on_request(peer(1), ID, [7; 32], b"").unwrap();
    ledger.on_request(peer(1), ID, [8; 32], b"").unwrap_err();

    let first = ledger.on_verified(peer(1), ID, &[7; 32]);
    assert_eq!(first, Ok(Arrival::First));
    let second = ledger.on_verified(peer(1), ID, &[8; 32]);
    assert_eq!(second, Err(NotCollected));
}

#[test]
fn one_failure_while_collecting_ends_it_and_later_ones_are_named_too() {
    let mut round = Round::new(3, peer(0));
    assert_eq!(round.on_signature(peer(2), Err("gone")), Next::Failed);
    assert_eq!(round.on_signature(peer(0), Ok([0; 65])), Next::Wait);
    assert_eq!(round.on_signature(peer(1), Err("late")), Next::Wait);
    assert_eq!(round.on_delivery(peer(1), Ok(())), Next::Wait);

    let failures = round.into_failures();
    let collecting = |idx, why| (peer(idx), Phase::Collecting, why);
    assert_eq!(failures, [collecting(2, "gone"), collecting(1, "late")]);
}

#[test]
fn one_failure_while_delivering_keeps_nobody_else_from_it() {
    let mut round = signed_by_all(4);
    assert_eq!(round.on_delivery(peer(2), Err("gone")), Next::Wait);
    assert_eq!(round.on_delivery(peer(1), Ok(())), Next::Wait);
    assert_eq!(round.on_delivery(peer(1), Ok(())), Next::Wait, "repeated");
    assert_eq!(round.on_delivery(peer(0), Ok(())), Next::Wait, "ourselves");
    assert_eq!(round.on_delivery(peer(9), Ok(())), Next::Wait, "nobody");
    assert_eq!(round.on_delivery(peer(3), Ok(())), Next::Failed);
    assert_eq!(
        round.on_delivery(peer(3), Ok(())),
        Next::Wait,
        "the end is told once"
    );
    assert_eq!(
        round.into_failures(),
        [(peer(2), Phase::Delivering, "gone")]
    );
}

#[test]
fn a_signature_counts_once_and_only_from_an_operator() {
    let mut round = Round::<()>::new(3, peer(0));
    assert_eq!(round.on_signature(peer(1), Ok([1; 65])), Next::Wait);
    assert_eq!(round.on_signature(peer(1), Ok([9; 65])), Next::Wait);
    assert_eq!(round.on_signature(peer(1), Err(())), Next::Wait);
    assert_eq!(round.on_signature(peer(3), Ok([3; 65])), Next::Wait);
    assert_eq!(round.on_signature(peer(0), Ok([0; 65])), Next::Wait);
    let all = vec![[0; 65], [1; 65], [2; 65]];
    assert_eq!(round.on_signature(peer(2), Ok([2; 65])), Next::Deliver(all));
    assert_eq!(round.on_signature(peer(2), Ok([2; 65])), Next::Wait);
}

#[test]
fn who_is_alone_is_done_with_its_own_signature() {
    let mut round = Round::<()>::new(1, peer(0));
    assert_eq!(round.on_signature(peer(0), Ok([0; 65])), Next::Done);
}

#[test]
fn in_every_order_of_arrival_all_get_it_once() {
    for (n, own_first, orders) in [(3, false, 30 * 6), (4, true, 90 * 90)] {
        let mut world = World::new(n);
        world.broadcast(0, 7);
        if own_first {
            world.sign_own();
        }
        let mut seen = 0;
        every_order(&world, &mut |end| {
            seen += 1;
            assert_eq!(end.outcomes[0], Some(Next::Done));
            for node in 1..n {
                assert_eq!(end.delivered[node], [(0, 7)]);
            }
        });
        assert_eq!(seen, orders, "{n} nodes");
    }
}

#[test]
fn in_every_order_the_others_get_the_same_of_a_liar() {
    let mut world = World::new(3);
    // Asks both to sign either; the own signatures are there already.
    world.lie(0, 7, 8);
    world.sign_own();
    let mut seen = std::collections::BTreeSet::new();
    every_order(&world, &mut |end| {
        seen.insert(end.delivered.clone());
    });
    let all = |value| vec![vec![], vec![(0, value)], vec![(0, value)]];
    let nothing = vec![vec![]; 3];
    assert_eq!(Vec::from_iter(seen), [nothing, all(7), all(8)]);
}

#[test]
fn who_signs_and_vanishes_leaves_the_message_with_the_others() {
    let mut world = World::new(4);
    world.broadcast(0, 7);
    every_order_until(
        &world,
        &|it| matches!(it.what, What::Deliver(_)),
        &mut |at| {
            let mut at = at.clone();
            at.vanish(3);
            every_order(&at, &mut |end| {
                assert_eq!(end.outcomes[0], Some(Next::Failed));
                assert_eq!(end.delivered[1], [(0, 7)]);
                assert_eq!(end.delivered[2], [(0, 7)]);
            });
        },
    );
}

proptest! {
    /// All broadcast at once, one of them lies, anything arrives in any order and more than once.
    #[test]
    fn the_honest_never_get_two_things_from_one_peer(
        n in 3usize..6,
        second in 0u8..2,
        choices in prop::collection::vec((any::<prop::sample::Index>(), 0u8..4), 0..400),
    ) {
        let mut world = World::new(n);
        for node in 1..n {
            world.broadcast(node, 10 + node as u8);
        }
        world.lie(0, 1, 1 + second);
        for (which, what) in choices {
            if world.flights.is_empty() {
                break;
            }
            let at = which.index(world.flights.len());
            if what == 0 && world.flights.len() < 200 {
                let again = world.flights[at].clone();
                world.flights.push(again);
            }
            world.step(at);
        }
        while !world.flights.is_empty() {
            world.step(0);
        }

        for node in 1..n {
            prop_assert_eq!(&world.outcomes[node], &Some(Next::Done));
            let mut from: Vec<_> = world.delivered[node].iter().map(|(from, _)| *from).collect();
            from.sort_unstable();
            let unique = from.len();
            from.dedup();
            prop_assert_eq!(from.len(), unique, "once from each");
        }
        let of_liar: std::collections::BTreeSet<u8> = (1..n)
            .flat_map(|node| &world.delivered[node])
            .filter(|(from, _)| *from == 0)
            .map(|(_, value)| *value)
            .collect();
        prop_assert!(of_liar.len() <= 1, "{of_liar:?}");
    }
}

/// Nodes as the shell drives them, and what is under way between them. A value is one byte; its
/// digest repeats it; a signature begins with the signer and the value.
#[derive(Clone)]
struct World {
    ledgers: Vec<Ledger>,
    /// Per node and value that it broadcasts: a liar has two.
    rounds: BTreeMap<(usize, u8), Round<&'static str>>,
    outcomes: Vec<Option<Next>>,
    delivered: Vec<Vec<(usize, u8)>>,
    vanished: Vec<bool>,
    flights: Vec<Flight>,
}

#[derive(Clone)]
struct Flight {
    from: usize,
    to: usize,
    value: u8,
    what: What,
}

#[derive(Clone)]
enum What {
    Ask,
    Signed(Result<Signature, &'static str>),
    Deliver(Vec<Signature>),
    Confirmed(Result<(), &'static str>),
}

impl World {
    fn new(n: usize) -> Self {
        Self {
            ledgers: vec![Ledger::default(); n],
            rounds: BTreeMap::new(),
            outcomes: vec![None; n],
            delivered: vec![Vec::new(); n],
            vanished: vec![false; n],
            flights: Vec::new(),
        }
    }

    fn n(&self) -> usize {
        self.ledgers.len()
    }

    fn broadcast(&mut self, from: usize, value: u8) {
        self.rounds
            .insert((from, value), Round::new(self.n(), peer(from)));
        self.send(from, from, value, What::Signed(Ok(signature(from, value))));
        for to in (0..self.n()).filter(|to| *to != from) {
            self.send(from, to, value, What::Ask);
        }
    }

    /// Says the first to the odd and the second to the even, then each to the rest.
    fn lie(&mut self, from: usize, first: u8, second: u8) {
        for value in [first, second] {
            self.rounds
                .insert((from, value), Round::new(self.n(), peer(from)));
            self.send(from, from, value, What::Signed(Ok(signature(from, value))));
        }
        for turn in 0..2 {
            for to in (0..self.n()).filter(|to| *to != from) {
                let value = if (to + turn) % 2 == 1 { first } else { second };
                if turn == 0 || first != second {
                    self.send(from, to, value, What::Ask);
                }
            }
        }
    }

    /// Not in any order: first.
    fn sign_own(&mut self) {
        while let Some(at) = self.flights.iter().position(|it| it.to == it.from) {
            self.step(at);
        }
    }

    fn vanish(&mut self, node: usize) {
        self.vanished[node] = true;
    }

    fn send(&mut self, from: usize, to: usize, value: u8, what: What) {
        self.flights.push(Flight {
            from,
            to,
            value,
            what,
        });
    }

    fn step(&mut self, at: usize) {
        let Flight {
            from,
            to,
            value,
            what,
        } = self.flights.remove(at);
        let digest = [value; 32];
        match what {
            What::Ask => {
                let signed = if self.vanished[to] {
                    Err("gone")
                } else {
                    let said = self.ledgers[to].on_request(peer(from), ID, digest, &[value]);
                    said.map(|()| signature(to, value)).map_err(|_| "refused")
                };
                self.send(to, from, value, What::Signed(signed));
            }
            What::Deliver(signatures) => {
                let confirmed = if self.vanished[to] {
                    Err("gone")
                } else {
                    self.take(from, to, value, &signatures)
                };
                self.send(to, from, value, What::Confirmed(confirmed));
            }
            What::Signed(result) => {
                let Some(round) = self.rounds.get_mut(&(to, value)) else {
                    return;
                };
                match round.on_signature(peer(from), result) {
                    Next::Deliver(signatures) => {
                        for other in (0..self.n()).filter(|other| *other != to) {
                            self.send(to, other, value, What::Deliver(signatures.clone()));
                        }
                    }
                    Next::Wait => {}
                    end => self.outcomes[to] = Some(end),
                }
            }
            What::Confirmed(result) => {
                let round = self.rounds.get_mut(&(to, value)).unwrap();
                match round.on_delivery(peer(from), result) {
                    Next::Wait => {}
                    end => self.outcomes[to] = Some(end),
                }
            }
        }
    }

    fn take(
        &mut self,
        from: usize,
        to: usize,
        value: u8,
        signatures: &[Signature],
    ) -> Result<(), &'static str> {
        let digest = [value; 32];
        let ledger = &mut self.ledgers[to];
        let refused = |_| "refused";
        ledger
            .on_delivery(peer(from), ID, &digest)
            .map_err(refused)?;
        let good = (0..signatures.len()).all(|it| signatures[it] == signature(it, value));
        if !good {
            return Err("signature");
        }
        let arrival = ledger
            .on_verified(peer(from), ID, &digest)
            .map_err(refused)?;
        if arrival == Arrival::First {
            self.delivered[to].push((from, value));
        }
        Ok(())
    }
}

/// Runs the world to its end in every order of arrival.
fn every_order(world: &World, at_end: &mut dyn FnMut(&World)) {
    every_order_until(world, &|_| false, at_end);
}

/// In every order, until something of a kind is under way, or nothing is.
fn every_order_until(
    world: &World,
    is_end: &dyn Fn(&Flight) -> bool,
    at_end: &mut dyn FnMut(&World),
) {
    if world.flights.is_empty() || world.flights.iter().any(is_end) {
        at_end(world);
    } else {
        for at in 0..world.flights.len() {
            let mut next = world.clone();
            next.step(at);
            every_order_until(&next, is_end, at_end);
        }
    }
}

fn signed_by_all(n: usize) -> Round<&'static str> {
    let mut round = Round::new(n, peer(0));
    for at in 0..n {
        round.on_signature(peer(at), Ok([at as u8; 65]));
    }
    round
}

fn signature(signer: usize, value: u8) -> Signature {
    let mut signature = [0; 65];
    signature[..2].copy_from_slice(&[signer as u8, value]);
    signature
}

fn peer(at: usize) -> PeerIdx {
    PeerIdx::new(u32::try_from(at).unwrap()).unwrap()
}
