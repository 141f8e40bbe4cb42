//! What a person or a script sees of a devnet.

use std::io::{self, IsTerminal, Write};
use std::{fmt::Write as _, time::Duration};

use pluto_p2p::p2p_context::WhyNotConnected;
use serde_json::{Value, json};

use crate::say::say;

use super::{
    Upgrade,
    cluster::Cluster,
    node::{Node, Report},
    relays::Relays,
    score::Score,
};

/// Slots shown in the live view.
const SHOWN: u64 = 8;

/// One of three ways to show a run.
pub(crate) struct View {
    kind: Kind,
    names: Vec<(String, String)>,
    threshold: usize,
    validators: usize,
    /// Lines of the last live picture, to draw over.
    drawn: usize,
    notes: Vec<String>,
    shown: std::collections::BTreeSet<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Live,
    Plain,
    Json,
}

impl View {
    pub(crate) fn new(json: bool, cluster: &Cluster) -> Self {
        let kind = if json {
            Kind::Json
        } else if io::stdout().is_terminal() {
            Kind::Live
        } else {
            Kind::Plain
        };
        Self {
            kind,
            names: cluster
                .members
                .iter()
                .map(|member| (member.peer.to_string(), member.enr.clone()))
                .collect(),
            threshold: cluster.threshold,
            validators: cluster.validators.len(),
            drawn: 0,
            notes: Vec::new(),
            shown: std::collections::BTreeSet::new(),
        }
    }

    pub(crate) fn started(&mut self, nodes: &[Option<Node>], relays: &Relays) {
        if self.kind == Kind::Json {
            let nodes: Vec<Value> = nodes
                .iter()
                .flatten()
                .map(|node| {
                    json!({
                        "node": node.index,
                        "peer_id": self.names[node.index].0,
                        "enr": self.names[node.index].1,
                        "listen": node.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    })
                })
                .collect();
            let relays: Vec<Value> = relays
                .urls()
                .map(|(peer, url)| json!({"peer_id": peer.to_string(), "url": url}))
                .collect();
            self.json(json!({"event": "started", "threshold": self.threshold, "validators": self.validators, "nodes": nodes, "relays": relays}));
            return;
        }
        self.say(format!(
            "{} nodes, {} of them sign together, {} validators",
            nodes.len(),
            self.threshold,
            self.validators
        ));
        for (index, (peer, _)) in self.names.clone().iter().enumerate() {
            self.say(format!("  node {index}  {peer}"));
        }
        for (index, (peer, url)) in relays.urls().enumerate() {
            self.say(format!("  relay {index} {peer}  {url}"));
        }
    }

    pub(crate) fn meshed(&mut self, nodes: &[Option<Node>], elapsed: Duration) {
        if self.kind == Kind::Json {
            self.json(json!({"event": "mesh", "elapsed_ms": ms(elapsed)}));
            return;
        }
        self.say(format!("all connected after {:.1} ms", ms(elapsed)));
        if self.kind == Kind::Plain {
            for line in matrix(nodes).lines() {
                self.say(line.to_owned());
            }
        }
    }

    pub(crate) fn upgraded(&mut self, upgrade: Upgrade, elapsed: Duration, nodes: &[Option<Node>]) {
        let (event, told) = match upgrade {
            Upgrade::Direct => ("direct", "no connection goes through a relay"),
            Upgrade::Quic => ("quic", "all connections are QUIC"),
        };
        if self.kind == Kind::Json {
            self.json(json!({"event": event, "elapsed_ms": ms(elapsed)}));
            return;
        }
        self.note(format!("{told} after {:.1} ms", ms(elapsed)));
        if self.kind == Kind::Plain {
            for line in matrix(nodes).lines() {
                self.say(line.to_owned());
            }
        }
    }

    pub(crate) fn killed(&mut self, node: usize, slot: u64) {
        if self.kind == Kind::Json {
            self.json(json!({"event": "killed", "node": node, "slot": slot}));
        } else {
            self.note(format!("slot {slot}: node {node} stopped, as ordered"));
        }
    }

    pub(crate) fn restarted(&mut self, node: usize, slot: u64) {
        if self.kind == Kind::Json {
            self.json(json!({"event": "restarted", "node": node, "slot": slot}));
        } else {
            self.note(format!("slot {slot}: node {node} started again"));
        }
    }

    pub(crate) fn report(&mut self, report: &Report, score: &Score, nodes: &[Option<Node>]) {
        match report {
            Report::Back { node, after } => {
                if self.kind == Kind::Json {
                    self.json(json!({"event": "back", "node": node, "after_ms": ms(*after)}));
                } else {
                    self.note(format!(
                        "node {node} is back in the mesh, {:.0} ms after its start",
                        ms(*after)
                    ));
                }
            }
            Report::Failed { node, slot, what } => {
                if self.kind == Kind::Json {
                    self.json(json!({"event": "failure", "node": node, "slot": slot, "cause": what.to_string()}));
                } else {
                    self.note(format!("slot {slot}, node {node}: {what}"));
                }
            }
            Report::Signed { slot, .. } => {
                if score.waiting(*slot) == 0 && self.shown.insert(*slot) {
                    self.slot(*slot, score);
                    while self.shown.len() > 256 {
                        self.shown.pop_first();
                    }
                }
            }
        }
        self.draw(score, nodes);
    }

    fn slot(&mut self, slot: u64, score: &Score) {
        let Some(times) = score.slot(slot) else {
            return;
        };
        match self.kind {
            Kind::Json => {
                let times: Vec<Value> = times
                    .iter()
                    .map(|(node, elapsed)| json!({"node": node, "ms": ms(*elapsed)}))
                    .collect();
                self.json(json!({"event": "slot", "slot": slot, "ok": true, "nodes": times}));
            }
            Kind::Plain => self.say(slot_line(slot, times)),
            Kind::Live => {}
        }
    }

    /// Draws the live picture anew.
    pub(crate) fn draw(&mut self, score: &Score, nodes: &[Option<Node>]) {
        if self.kind != Kind::Live {
            return;
        }
        let mut picture = matrix(nodes);
        for index in 0..nodes.len() {
            if let Some(why) = why_missing(nodes, index) {
                let _ = writeln!(picture, "  node {index}: {why}");
            }
        }
        let begun = score.begun();
        let _ = writeln!(picture, "\nslots {begun}, complete {}", score.completed());
        for slot in begun.saturating_sub(SHOWN)..begun {
            if let Some(times) = score.slot(slot) {
                let open = match score.waiting(slot) {
                    0 => String::new(),
                    open => format!("  waiting for {open}"),
                };
                let _ = writeln!(picture, "{}{open}", slot_line(slot, times));
            }
        }
        let mut out = io::stdout().lock();
        let mut frame = String::new();
        if self.drawn > 0 {
            let _ = write!(frame, "\x1b[{}A\x1b[J", self.drawn);
        }
        for note in self.notes.drain(..) {
            frame.push_str(&note);
            frame.push('\n');
        }
        if let Some((columns, rows)) = terminal_size() {
            picture = fitting(&picture, columns, rows);
        }
        frame.push_str(&picture);
        self.drawn = picture.lines().count();
        // A terminal that is gone needs no picture.
        let _ = out.write_all(frame.as_bytes());
        let _ = out.flush();
    }

    pub(crate) fn summary(&mut self, score: &Score, ok: bool, interrupted: bool) {
        let times: Vec<_> = (0..self.names.len())
            .map(|node| (node, score.times(node)))
            .collect();
        if self.kind == Kind::Json {
            let nodes: Vec<Value> = times
                .iter()
                .map(|(node, times)| {
                    json!({
                        "node": node,
                        "p50_ms": times.map(|(p50, _)| ms(p50)),
                        "max_ms": times.map(|(_, max)| ms(max)),
                        "back_after_ms": score.returns.get(node).map(|after| ms(*after)),
                    })
                })
                .collect();
            self.json(json!({
                "event": "summary", "ok": ok, "interrupted": interrupted,
                "slots": score.begun(), "complete": score.completed(),
                "failures": score.failed, "nodes": nodes,
            }));
            return;
        }
        for note in std::mem::take(&mut self.notes) {
            self.say(note);
        }
        self.say(String::new());
        self.say(format!(
            "{}: {} of {} slots complete on every node that was up",
            if ok { "ok" } else { "failed" },
            score.completed(),
            score.begun()
        ));
        for (node, times) in times {
            let mut line = match times {
                Some((p50, max)) => format!(
                    "  node {node}  time to group signature p50 {:.1} ms, max {:.1} ms",
                    ms(p50),
                    ms(max)
                ),
                None => format!("  node {node}  signed nothing"),
            };
            if let Some(after) = score.returns.get(&node) {
                let _ = write!(
                    line,
                    ", back in the mesh {:.0} ms after its restart",
                    ms(*after)
                );
            }
            self.say(line);
        }
        for failure in &score.failures {
            self.say(format!("  {failure}"));
        }
        let more = score.failed.saturating_sub(score.failures.len() as u64);
        if more > 0 {
            self.say(format!("  and {more} more failures"));
        }
        if interrupted {
            self.say("  stopped before its end".to_owned());
        }
    }

    fn note(&mut self, note: String) {
        if self.kind == Kind::Live {
            self.notes.push(note);
        } else {
            self.say(note);
        }
    }

    fn say(&self, line: String) {
        say!("{line}");
    }

    fn json(&self, value: Value) {
        self.say(value.to_string());
    }
}

/// Columns and rows of the terminal.
#[cfg(unix)]
fn terminal_size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    let (columns, rows) = (usize::from(size.ws_col), usize::from(size.ws_row));
    (columns > 0 && rows > 0).then_some((columns, rows))
}

#[cfg(not(unix))]
fn terminal_size() -> Option<(usize, usize)> {
    None
}

/// As much of a picture as the terminal can take back: what has wrapped or left it at the top cannot be
/// drawn over.
fn fitting(picture: &str, columns: usize, rows: usize) -> String {
    let lines = picture.lines().take(rows.saturating_sub(1));
    let cut = lines.map(|line| line.chars().take(columns).chain(['\n']).collect::<String>());
    cut.collect()
}

/// Who is connected to whom, over what, and how far away that is.
fn matrix(nodes: &[Option<Node>]) -> String {
    let mut text = String::from("\n        ");
    for column in 0..nodes.len() {
        let _ = write!(text, "{:>12}", format!("node {column}"));
    }
    text.push('\n');
    for (row, node) in nodes.iter().enumerate() {
        let _ = write!(text, "  node {row}");
        for (column, other) in nodes.iter().enumerate() {
            let cell = match (node, other) {
                _ if row == column => "-".to_owned(),
                (Some(node), Some(other)) => cell(node, other),
                _ => "down".to_owned(),
            };
            let _ = write!(text, "{cell:>12}");
        }
        text.push('\n');
    }
    text
}

fn cell(node: &Node, other: &Node) -> String {
    let view = node.context.view();
    let Some(path) = view.peer(&other.peer).and_then(|peer| peer.best()) else {
        return "...".to_owned();
    };
    let path_name = match path.is_relayed() {
        true => "relay",
        false => path.transport.name(),
    };
    match path.rtt() {
        Some(rtt) => format!("{path_name} {:.1}ms", ms(rtt)),
        None => path_name.to_owned(),
    }
}

/// Why a node misses another that is up.
fn why_missing(nodes: &[Option<Node>], index: usize) -> Option<WhyNotConnected> {
    let node = nodes[index].as_ref()?;
    let others = nodes.iter().flatten().filter(|other| other.index != index);
    others
        .filter_map(|other| node.context.why_not_connected(other.peer))
        .next()
}

fn slot_line(slot: u64, times: &std::collections::BTreeMap<usize, Duration>) -> String {
    let mut line = format!("  slot {slot:>4} ");
    for (node, elapsed) in times {
        let _ = write!(line, "  {node}: {:>6.1} ms", ms(*elapsed));
    }
    line
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_takes_no_more_of_the_terminal_than_can_be_drawn_over() {
        let picture = "12345678\n\n123456789\n4\n";
        assert_eq!(fitting(picture, 8, 5), "12345678\n\n12345678\n4\n");
        assert_eq!(fitting(picture, 99, 3), "12345678\n\n");
        assert_eq!(fitting(picture, 1, 1), "");
    }
}
