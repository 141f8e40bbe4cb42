//! For benches only: a subject beside its baseline, and the table that shows both.
//!
//! What counts is a ratio of two medians of one run. The subjects take turns, so that a machine
//! that is busy for a while is so for all of them; a harness that measures one after the other
//! blames the one that had the bad luck.
//!
//! - [`in_turns`] measures; [`Samples`] holds what it found.
//! - [`Table`] prints Markdown, and with [`WRITE`] in the environment also replaces its table in
//!   `docs/performance.md`.
//! - Run by `cargo test` (without `--bench`) every subject runs once and nothing is written: the
//!   benches are code that must go on working.

use std::{
    env, fmt, fs, io,
    path::Path,
    time::{Duration, Instant},
};

/// The environment variable that makes [`Table::publish`] write into the document.
pub const WRITE: &str = "PLUTO_BENCH_WRITE";
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/performance.md");

/// Durations of one subject.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// Runs `work` `times` times and adds the mean, for work that is short beside the clock.
    pub fn time(&mut self, times: u32, mut work: impl FnMut()) {
        let began = Instant::now();
        for _ in 0..times {
            work();
        }
        self.push(began.elapsed() / times.max(1));
    }

    /// The value below which `percent` of the samples lie; zero without samples.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        let at = (last * percent.min(100)).div_ceil(100);
        sorted.get(at).copied().unwrap_or_default()
    }

    /// The median.
    #[must_use]
    pub fn p50(&self) -> Duration {
        self.percentile(50)
    }

    /// How many times the other's median this one's is.
    #[must_use]
    pub fn ratio(&self, baseline: &Self) -> f64 {
        self.p50().as_secs_f64() / baseline.p50().as_secs_f64()
    }
}

/// What is measured: adds its samples of one round.
pub type Subject<'a> = &'a mut dyn FnMut(&mut Samples);

/// Measures every subject once a round. Each round begins with another one. One round more comes
/// first and is thrown away: caches, connections and the clock of the processor are cold in it.
pub fn in_turns<const N: usize>(rounds: usize, mut subjects: [Subject<'_>; N]) -> [Samples; N] {
    let rounds = if is_bench() { rounds } else { 0 };
    let mut samples = [(); N].map(|()| Samples::default());
    for (subject, samples) in subjects.iter_mut().zip(&mut samples) {
        subject(samples);
        if rounds > 0 {
            samples.0.clear();
        }
    }
    for round in 0..rounds {
        for turn in 0..N {
            let turn = (turn + round) % N;
            subjects[turn](&mut samples[turn]);
        }
    }
    samples
}

/// Whether this is `cargo bench` and not a test of the bench.
#[must_use]
pub fn is_bench() -> bool {
    env::args().any(|arg| arg == "--bench")
}

/// A table of the document, known there by its name.
#[derive(Debug, Clone)]
pub struct Table {
    name: &'static str,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new<const N: usize>(name: &'static str, head: [&str; N]) -> Self {
        Self {
            name,
            head: head.map(str::to_owned).into(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [&dyn fmt::Display; N]) {
        self.rows.push(cells.map(|cell| format!("{cell}")).into());
    }

    /// Prints it, and with [`WRITE`] set puts it into the document.
    ///
    /// # Errors
    ///
    /// When the document cannot be read or written or has no place for this table.
    pub fn publish(&self) -> io::Result<()> {
        println!("\n{self}");
        if is_bench() && env::var_os(WRITE).is_some() {
            let document = fs::read_to_string(DOCUMENT)?;
            let document = replace(&document, self.name, &self.to_string()).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::NotFound,
                    format!(
                        "{} has no table `{}`",
                        Path::new(DOCUMENT).display(),
                        self.name
                    ),
                )
            })?;
            fs::write(DOCUMENT, document)?;
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| {} |", self.head.join(" | "))?;
        writeln!(f, "|{}", "---|".repeat(self.head.len()))?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        writeln!(f, "\n*{} cores, {}.*", cores(), processor())
    }
}

/// Puts `text` between the marks of the table; `None` where they are missing.
fn replace(document: &str, name: &str, text: &str) -> Option<String> {
    let open = format!("<!-- bench: {name} -->\n");
    let begin = document.find(&open)? + open.len();
    let end = begin + document[begin..].find("<!-- end -->")?;
    Some(format!("{}{text}{}", &document[..begin], &document[end..]))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn processor() -> String {
    let named = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    named.unwrap_or_else(|| env::consts::ARCH.to_owned())
}

/// A duration with three digits, in the unit that suits it.
#[derive(Debug, Clone, Copy)]
pub struct Short(pub Duration);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_secs_f64() * 1e6;
        match micros {
            ..10.0 => write!(f, "{micros:.2} µs"),
            ..100.0 => write!(f, "{micros:.1} µs"),
            ..1e3 => write!(f, "{micros:.0} µs"),
            ..1e4 => write!(f, "{:.2} ms", micros / 1e3),
            ..1e5 => write!(f, "{:.1} ms", micros / 1e3),
            _ => write!(f, "{:.0} ms", micros / 1e3),
        }
    }
}

/// A ratio, as `1.04 ×`.
#[derive(Debug, Clone, Copy)]
pub struct Times(pub f64);

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ×", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_one_of_the_samples() {
        let samples = |ms: &[u64]| Samples(ms.iter().copied().map(Duration::from_millis).collect());
        assert_eq!(samples(&[]).p50(), Duration::ZERO);
        assert_eq!(samples(&[7]).p50(), Duration::from_millis(7));
        assert_eq!(samples(&[9, 1, 5]).p50(), Duration::from_millis(5));
        assert_eq!(
            samples(&[9, 1, 5]).percentile(100),
            Duration::from_millis(9)
        );
        assert!((samples(&[6]).ratio(&samples(&[4])) - 1.5).abs() < 1e-9);
    }

    #[test]
    fn a_table_replaces_its_own_place_and_nothing_else() {
        let document =
            "a\n<!-- bench: x -->\nold\n<!-- end -->\nb\n<!-- bench: y -->\n<!-- end -->\n";
        let replaced = replace(document, "x", "new\n").unwrap();
        assert_eq!(
            replaced,
            "a\n<!-- bench: x -->\nnew\n<!-- end -->\nb\n<!-- bench: y -->\n<!-- end -->\n"
        );
        assert_eq!(replace(document, "z", "new\n"), None);
    }
}
