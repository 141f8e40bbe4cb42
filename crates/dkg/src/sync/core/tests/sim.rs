//! Whole ceremonies of several cores in virtual time, with connections that come and go.

use proptest::prelude::*;

use super::*;

const TICK: Duration = Duration::from_millis(10);
const BEAT: Duration = Duration::from_millis(100);
const STEPS: u32 = 4;
/// Within this a ceremony with losses that heal has ended well.
const LIMIT: Duration = Duration::from_secs(60);

/// What happens to the connections between two nodes.
#[derive(Debug, Clone, Copy)]
enum Op {
    Open(usize, usize),
    CloseOldest(usize, usize),
    CloseNewest(usize, usize),
    CloseAll(usize, usize),
}

struct Stream {
    from: usize,
    to: usize,
    connection: ConnectionId,
    ticket: u64,
    /// Its number at the server, once the first message has arrived.
    number: Option<u64>,
    requests: VecDeque<(Instant, Tell)>,
    answers: VecDeque<(Instant, bool, String)>,
    unanswered: usize,
    said: Option<(Instant, Tell)>,
    gone: bool,
}

struct Node {
    core: Core,
    alive: bool,
    /// Neither hears nor is heard, and its connections stay.
    frozen: bool,
    finished: bool,
}

struct Sim {
    t0: Instant,
    now: Instant,
    ids: Vec<PeerId>,
    nodes: Vec<Node>,
    links: Vec<(usize, usize, ConnectionId)>,
    next_link: usize,
    streams: Vec<Stream>,
    /// When a pair without a connection meets again.
    redials: Vec<(Instant, usize, usize)>,
    delay: Box<dyn FnMut() -> Duration>,
    redial: Duration,
}

impl Sim {
    fn new(n: usize, seed: u64, redial: Duration) -> Self {
        let t0 = Instant::now();
        let mut ids: Vec<_> = (0..n).map(|_| PeerId::random()).collect();
        ids.sort();
        let mut state = seed | 1;
        let mut sim = Self {
            t0,
            now: t0,
            nodes: (0..n).map(|at| Node::new(&ids, at)).collect(),
            ids,
            links: Vec::new(),
            next_link: 0,
            streams: Vec::new(),
            redials: Vec::new(),
            delay: Box::new(move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                Duration::from_millis(state % 120)
            }),
            redial,
        };
        for a in 0..n {
            for b in a + 1..n {
                sim.open(a, b);
            }
        }
        sim
    }

    fn elapsed(&self) -> Duration {
        self.now - self.t0
    }

    fn open(&mut self, a: usize, b: usize) {
        if !self.nodes[a].alive || !self.nodes[b].alive {
            return;
        }
        let (a, b) = (a.min(b), a.max(b));
        let id = connection(self.next_link);
        self.next_link += 1;
        self.links.push((a, b, id));
        for (of, to) in [(a, b), (b, a)] {
            let core = &mut self.nodes[of].core;
            core.on_connected(self.ids[to], id, DIRECT);
            core.on_identified(self.ids[to], pluto());
        }
    }

    fn close(&mut self, id: ConnectionId) {
        let Some(at) = self.links.iter().position(|(.., open)| *open == id) else {
            return;
        };
        let (a, b, _) = self.links.remove(at);
        for stream in &mut self.streams {
            if stream.connection == id {
                stream.gone = true;
            }
        }
        self.reap();
        for (of, to) in [(a, b), (b, a)] {
            self.nodes[of].core.on_closed(self.ids[to], id, self.now);
        }
        if !self.links.iter().any(|(x, y, _)| (*x, *y) == (a, b)) {
            self.redials.push((self.now + self.redial, a, b));
        }
    }

    fn apply(&mut self, op: Op) {
        let (Op::Open(a, b) | Op::CloseOldest(a, b) | Op::CloseNewest(a, b) | Op::CloseAll(a, b)) =
            op;
        let n = self.nodes.len();
        let (a, b) = (a % n, b % n);
        if a == b {
            return;
        }
        let pair = (a.min(b), a.max(b));
        let links = self.links.iter().filter(|(x, y, _)| (*x, *y) == pair);
        let links: Vec<_> = links.map(|(.., id)| *id).collect();
        match op {
            Op::Open(..) => self.open(a, b),
            Op::CloseOldest(..) => links.first().into_iter().for_each(|id| self.close(*id)),
            Op::CloseNewest(..) => links.last().into_iter().for_each(|id| self.close(*id)),
            Op::CloseAll(..) => links.into_iter().for_each(|id| self.close(id)),
        }
    }

    /// The process ends, and its connections with it.
    fn kill(&mut self, at: usize) {
        self.nodes[at].alive = false;
        let links = self.links.iter().filter(|(a, b, _)| *a == at || *b == at);
        let links: Vec<_> = links.map(|(.., id)| *id).collect();
        links.into_iter().for_each(|id| self.close(id));
    }

    fn restart(&mut self, at: usize) {
        self.kill(at);
        self.nodes[at] = Node::new(&self.ids, at);
    }

    /// Both sides hear of the end of streams that are gone.
    fn reap(&mut self) {
        let (gone, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.streams)
            .into_iter()
            .partition(|stream| stream.gone);
        self.streams = left;
        for stream in gone {
            let (from, to) = (self.ids[stream.from], self.ids[stream.to]);
            self.nodes[stream.from]
                .core
                .on_claim_ended(to, stream.ticket, End::Broken, self.now);
            if let Some(number) = stream.number {
                self.nodes[stream.to].core.on_stream_ended(from, number);
            }
        }
    }

    fn tick(&mut self) {
        self.now += TICK;
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.redials)
            .into_iter()
            .partition(|(at, ..)| *at <= now);
        self.redials = later;
        for (_, a, b) in due {
            match (self.nodes[a].alive, self.nodes[b].alive) {
                (true, true) => self.open(a, b),
                (alive, _) => {
                    let (of, to) = if alive { (a, b) } else { (b, a) };
                    let id = self.ids[to];
                    self.nodes[of]
                        .core
                        .on_dial_failed(id, now, &FailureCause::Refused, now);
                    self.redials.push((now + self.redial, a, b));
                }
            }
        }
        for at in 0..self.nodes.len() {
            self.nodes[at].core.on_time(now);
            self.act(at);
        }
        for at in 0..self.streams.len() {
            self.carry(at);
        }
        self.reap();
    }

    fn act(&mut self, at: usize) {
        while let Some(action) = self.nodes[at].core.next_action() {
            match action {
                Action::Claim { peer, avoid } => {
                    let to = self.ids.iter().position(|id| *id == peer).unwrap();
                    let pair = (at.min(to), at.max(to));
                    let mut links: Vec<_> = self
                        .links
                        .iter()
                        .filter(|(a, b, _)| (*a, *b) == pair)
                        .map(|(.., id)| *id)
                        .collect();
                    if links.len() > 1 {
                        links.retain(|id| Some(*id) != avoid);
                    }
                    let chosen = links.first().copied();
                    let taken = self.nodes[at].core.take(peer, chosen, self.now);
                    if let (Some(ticket), Some(connection)) = (taken, chosen) {
                        assert!(
                            !self
                                .streams
                                .iter()
                                .any(|s| !s.gone && (s.from, s.to) == (at, to)),
                            "one stream to a peer"
                        );
                        self.streams.push(Stream {
                            from: at,
                            to,
                            connection,
                            ticket,
                            number: None,
                            requests: VecDeque::new(),
                            answers: VecDeque::new(),
                            unanswered: 0,
                            said: None,
                            gone: false,
                        });
                    }
                }
                Action::Release { .. } => panic!("nobody knows a better path here"),
                Action::Want(_) | Action::News(_) => {}
            }
        }
    }

    fn carry(&mut self, at: usize) {
        let now = self.now;
        let stream = &mut self.streams[at];
        let (from, to) = (self.ids[stream.from], self.ids[stream.to]);
        if stream.gone || self.nodes[stream.from].frozen || self.nodes[stream.to].frozen {
            return;
        }
        let client = &mut self.nodes[stream.from].core;
        let tell = client.tell();
        let due = match stream.said {
            None => true,
            Some((when, said)) => said != tell || (stream.unanswered == 0 && now - when >= BEAT),
        };
        if due && stream.unanswered < 8 && !stream.said.is_some_and(|(_, said)| said.shutdown) {
            let arrival = now + (self.delay)();
            let arrival = stream
                .requests
                .back()
                .map_or(arrival, |(last, _)| arrival.max(*last));
            stream.requests.push_back((arrival, tell));
            stream.said = Some((now, tell));
            stream.unanswered += 1;
        }
        while let Some((_, tell)) = stream.requests.pop_front_if(|(when, _)| *when <= now) {
            let server = &mut self.nodes[stream.to].core;
            let number = match stream.number {
                Some(number) => number,
                None => server.on_stream(from).unwrap(),
            };
            stream.number = Some(number);
            let heard = Heard {
                version: tell.version.unwrap().as_str(),
                signature: Ok(()),
                step: tell.step.0.into(),
                shutdown: tell.shutdown,
            };
            match server.on_message(from, number, heard, now) {
                Verdict::Superseded => stream.gone = true,
                Verdict::Answer { error, close } => {
                    let arrival = now + (self.delay)();
                    let last = stream.answers.back().map(|(last, ..)| *last);
                    let arrival = last.map_or(arrival, |last| arrival.max(last));
                    stream.answers.push_back((arrival, tell.shutdown, error));
                    if close {
                        server.on_stream_ended(from, number);
                    }
                }
            }
        }
        while let Some((_, was_shutdown, error)) =
            stream.answers.pop_front_if(|(when, ..)| *when <= now)
        {
            stream.unanswered -= 1;
            let client = &mut self.nodes[stream.from].core;
            client.on_reply(to, stream.ticket, was_shutdown, &error, now);
            if was_shutdown {
                client.on_claim_ended(to, stream.ticket, End::Done, now);
                stream.gone = true;
            }
        }
    }

    /// Each node goes on where its barrier is open.
    fn play(&mut self) {
        for node in &mut self.nodes {
            let progress = node.core.progress();
            if !node.alive || progress.ended.is_some() {
                continue;
            }
            let step = progress.step;
            if node.core.tell().shutdown {
                node.finished |= progress.all_shut();
            } else if step == Step(0) {
                if progress.all_connected() {
                    node.core.set_step(Step(1), self.now);
                }
            } else if progress.all_at(step) {
                if step == Step(STEPS) {
                    node.core.set_shutdown();
                } else {
                    node.core.set_step(Step(step.0 + 1), self.now);
                }
            }
        }
    }

    fn run(&mut self, until: Duration, mut is_over: impl FnMut(&mut Self) -> bool) -> bool {
        while self.elapsed() < until {
            self.tick();
            self.play();
            if is_over(self) {
                return true;
            }
        }
        false
    }

    fn reached(&self, step: u32) -> bool {
        let mut nodes = self.nodes.iter();
        nodes.all(|node| node.core.step() >= Step(step))
    }

    /// The reasons of all nodes but one, once all have one.
    fn reasons(&self, but: usize) -> Option<Vec<Reason>> {
        let others = self.nodes.iter().enumerate().filter(|(at, _)| *at != but);
        others.map(|(_, node)| node.core.progress().ended).collect()
    }

    fn show(&self) -> String {
        let nodes = self.nodes.iter().map(|node| node.core.progress());
        format!("{:#?}", nodes.collect::<Vec<_>>())
    }
}

impl Node {
    fn new(ids: &[PeerId], at: usize) -> Self {
        let others = ids.iter().copied().filter(|id| *id != ids[at]);
        Self {
            core: Core::new(rules(Some(CharonVersion::V1_11)), others),
            alive: true,
            frozen: false,
            finished: false,
        }
    }
}

fn ops() -> impl Strategy<Value = Vec<(u64, Op)>> {
    let pair = (0..4usize, 0..4usize);
    let op = (pair, 0..4u8).prop_map(|((a, b), kind)| match kind {
        0 => Op::Open(a, b),
        1 => Op::CloseOldest(a, b),
        2 => Op::CloseNewest(a, b),
        _ => Op::CloseAll(a, b),
    });
    prop::collection::vec((0..6000u64, op), 0..40)
}

/// Runs until all others have ended, and gives how long after `at` that was.
fn end_of_others(sim: &mut Sim, but: usize) -> (Vec<Reason>, Duration) {
    let began = sim.elapsed();
    let over = sim.run(began + LIMIT, |sim| sim.reasons(but).is_some());
    assert!(over, "{}", sim.show());
    (sim.reasons(but).unwrap(), sim.elapsed() - began)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 48 } else { 256 }))]

    #[test]
    fn losses_that_heal_in_any_phase_are_never_fatal(
        n in 3..=4usize,
        seed in any::<u64>(),
        redial_ms in 10..2500u64,
        mut ops in ops(),
    ) {
        ops.sort_by_key(|(at, _)| *at);
        let mut ops = VecDeque::from(ops);
        let mut sim = Sim::new(n, seed, Duration::from_millis(redial_ms));
        let over = sim.run(LIMIT, |sim| {
            while let Some((_, op)) =
                ops.pop_front_if(|(at, _)| Duration::from_millis(*at) <= sim.elapsed())
            {
                sim.apply(op);
            }
            sim.nodes.iter().all(|node| node.finished)
        });
        prop_assert!(over, "{}", sim.show());
        for node in &sim.nodes {
            prop_assert_eq!(node.core.progress().ended, None);
        }
    }

    #[test]
    fn whoever_is_killed_in_any_phase_is_named_by_all_others_within_five_seconds(
        n in 3..=4usize,
        seed in any::<u64>(),
        phase in 1..STEPS,
        victim in 0..4usize,
        second in any::<bool>(),
    ) {
        let victim = victim % n;
        let mut sim = Sim::new(n, seed, Duration::from_millis(250));
        if second {
            sim.open(victim, (victim + 1) % n);
        }
        prop_assert!(sim.run(LIMIT, |sim| sim.reached(phase)));
        sim.kill(victim);
        let (reasons, took) = end_of_others(&mut sim, victim);
        prop_assert!(took < Duration::from_secs(5), "{:?}", took);
        for reason in reasons {
            prop_assert!(reason.to_string().contains(&sim.ids[victim].to_string()), "{reason}");
            prop_assert!(reason.to_string().contains("step "), "{reason}");
        }
    }

    #[test]
    fn whoever_freezes_in_any_phase_is_named_by_all_others_after_ten_seconds(
        n in 3..=4usize,
        seed in any::<u64>(),
        phase in 1..STEPS,
        victim in 0..4usize,
    ) {
        let victim = victim % n;
        let mut sim = Sim::new(n, seed, Duration::from_millis(250));
        prop_assert!(sim.run(LIMIT, |sim| sim.reached(phase)));
        sim.nodes[victim].frozen = true;
        let (reasons, took) = end_of_others(&mut sim, victim);
        let expected = SILENCE - Duration::from_secs(1)..SILENCE + Duration::from_secs(1);
        prop_assert!(expected.contains(&took), "{:?}", took);
        for reason in reasons {
            prop_assert!(reason.to_string().contains(&sim.ids[victim].to_string()), "{reason}");
        }
    }

    #[test]
    fn whoever_restarts_in_the_middle_is_recognised_at_once_and_told(
        n in 3..=4usize,
        seed in any::<u64>(),
        phase in 2..STEPS,
        victim in 0..4usize,
    ) {
        let victim = victim % n;
        let mut sim = Sim::new(n, seed, Duration::from_millis(250));
        prop_assert!(sim.run(LIMIT, |sim| sim.reached(phase)));
        sim.restart(victim);
        let (reasons, took) = end_of_others(&mut sim, victim);
        prop_assert!(took < Duration::from_millis(1500), "{:?}", took);
        let mut recognised = 0;
        for reason in reasons {
            match reason {
                Reason::Restarted { peer, .. } => {
                    prop_assert_eq!(peer, sim.ids[victim]);
                    recognised += 1;
                }
                // The words of somebody who saw it, or of the victim, which saw the others ahead.
                Reason::Told { .. } => {}
                other => prop_assert!(false, "{:?}", other),
            }
        }
        let began = sim.elapsed();
        let told = sim.run(began + Duration::from_secs(2), |sim| {
            sim.nodes[victim].core.progress().ended.is_some()
        });
        prop_assert!(told);
        let ended = sim.nodes[victim].core.progress().ended.unwrap();
        prop_assert!(
            recognised > 0 || matches!(ended, Reason::Late { .. }),
            "{ended:?}"
        );
    }
}
