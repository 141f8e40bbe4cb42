//! `pluto verify`: what a file or a directory of a cluster is, and everything that is wrong with it.
//!
//! Spec: cluster, sections 5 to 8 and 11.3. Nothing is written, and nobody is asked but the execution
//! client that is given.
//!
//! A lock is what everything else is compared with. One whose content is wrong, or that neither all
//! shares nor enough nodes signed, would blame files that are right, so then they are only checked by
//! themselves, or against another node's lock that is of the same directory and right.
//!
//! - **Bounds:** those of `pluto-cluster` and `pluto-eth` for each file, [`MAX_NODES`] node directories.
//! - **Cost:** the derivation of each keystore's key, about 30 ms; on all cores.
//! - **Secrets:** shares are kept while several nodes are looked at, to put them together; wiped then.

mod keys;
mod money;
mod node;
mod print;
mod problem;

use std::{
    error::Error,
    ffi::OsStr,
    fmt, fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use pluto_cluster::{
    Definition, LockFile, MAX_OPERATORS, ReadError, Severity, Verifier, http::ExecutionClient,
    verify,
};
use pluto_crypto::{bls, keyfile};
use pluto_eth::network::{ForkVersion, Networks};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use self::{
    node::Node,
    problem::{Finding, Problem},
};
use crate::{
    args,
    nodes::{DEFINITION_FILE, KEYSTORES_DIR, LOCK_FILE},
};

/// Where a lock has the signature of all shares.
const AGGREGATE: &str = "signature_aggregate";

/// Most node directories of one directory: one for each operator, and as many again by mistake.
const MAX_NODES: usize = 2 * MAX_OPERATORS;

/// How much of a file is looked at to tell a lock from a definition.
const SNIFF_BYTES: usize = 16 << 20;

/// How many keys of its outermost object; those files have about twenty.
const MAX_KEYS: usize = 64;

#[derive(Debug, thiserror::Error)]
enum VerifyError {
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} holds no {LOCK_FILE}, {DEFINITION_FILE}, identity key or {KEYSTORES_DIR}, and no directory in it does",
        path.display()
    )]
    NothingThere { path: PathBuf },
    #[error(
        "{} is neither a definition nor a lock; give the directory that it is in",
        path.display()
    )]
    Neither { path: PathBuf },
    #[error("more than {MAX_NODES} node directories in {}", path.display())]
    TooManyNodes { path: PathBuf },
}

/// What was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Definition,
    Lock,
    Node,
    Nodes,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Definition => "definition",
            Self::Lock => "lock",
            Self::Node => "node",
            Self::Nodes => "cluster",
        }
    }
}

pub(crate) fn run(args: &args::Verify) -> Result<ExitCode, Box<dyn Error>> {
    let networks = args.testnet.networks()?;
    let client = args.wallets.client()?;
    let mut check = Check::new(&networks, client.as_ref());
    let kind = check.all(&args.path).inspect_err(|error| {
        if args.json {
            print::failure(error);
        }
    })?;

    let fails = |it: &Finding| match it.problem.severity() {
        Severity::Error => true,
        Severity::Unchecked => args.strict,
        Severity::Warning | Severity::Note => false,
    };
    let ok = !check.findings.iter().any(fails);
    // The worst first; within one severity as they were found.
    check
        .findings
        .sort_by_key(|it| std::cmp::Reverse(it.problem.severity()));
    if args.json {
        print::json(&check, kind, ok);
    } else {
        print::text(&check, kind, &args.path, ok);
    }
    Ok(if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What is known so far.
struct Check<'a> {
    networks: &'a Networks,
    client: Option<&'a ExecutionClient>,
    findings: Vec<Finding>,
    /// What the summary is about; the first that was read and is right, or else the first.
    subject: Option<Subject>,
    nodes: Vec<Node>,
}

enum Subject {
    Lock(Box<LockFile>),
    Definition(Box<Definition>),
}

impl Subject {
    fn definition(&self) -> &Definition {
        match self {
            Self::Lock(lock) => &lock.definition,
            Self::Definition(definition) => definition,
        }
    }
}

/// A lock that was read, and whether other files may be compared with it.
struct Checked {
    path: PathBuf,
    lock: LockFile,
    comparable: bool,
    clean: bool,
}

impl<'a> Check<'a> {
    fn new(networks: &'a Networks, client: Option<&'a ExecutionClient>) -> Self {
        Self {
            networks,
            client,
            findings: Vec::new(),
            subject: None,
            nodes: Vec::new(),
        }
    }

    fn add(
        &mut self,
        file: impl Into<PathBuf>,
        path: impl Into<String>,
        problem: impl Into<Problem>,
    ) {
        self.findings.push(Finding {
            file: file.into(),
            path: path.into(),
            problem: problem.into(),
        });
    }

    fn all(&mut self, path: &Path) -> Result<Kind, VerifyError> {
        let unreadable = |source| VerifyError::Unreadable {
            path: path.to_owned(),
            source,
        };
        if !fs::metadata(path).map_err(unreadable)?.is_dir() {
            return match content(path).map_err(unreadable)? {
                Content::Lock => {
                    let checked = self.lock(path, &[]);
                    self.subject = checked.map(|it| Subject::Lock(Box::new(it.lock)));
                    Ok(Kind::Lock)
                }
                Content::Definition => {
                    let definition = self.definition(path);
                    self.subject = definition.map(|it| Subject::Definition(Box::new(it)));
                    Ok(Kind::Definition)
                }
                Content::Neither => Err(VerifyError::Neither {
                    path: path.to_owned(),
                }),
            };
        }
        if is_node(path) {
            self.directories(path, &[path.to_owned()]);
            return Ok(Kind::Node);
        }
        let mut nodes = Vec::new();
        for entry in fs::read_dir(path).map_err(unreadable)? {
            let dir = entry.map_err(unreadable)?.path();
            if is_node(&dir) || dir.join(KEYSTORES_DIR).is_dir() {
                nodes.push(dir);
            }
            if nodes.len() > MAX_NODES {
                return Err(VerifyError::TooManyNodes {
                    path: path.to_owned(),
                });
            }
        }
        if !nodes.is_empty() {
            // node10 after node9.
            nodes.sort_by_key(|it| (it.as_os_str().len(), it.clone()));
            self.directories(path, &nodes);
            return Ok(Kind::Nodes);
        }
        if path.join(DEFINITION_FILE).exists() || path.join(KEYSTORES_DIR).is_dir() {
            self.directories(path, &[path.to_owned()]);
            return Ok(Kind::Node);
        }
        Err(VerifyError::NothingThere {
            path: path.to_owned(),
        })
    }

    fn verifier(&self) -> Verifier<'a> {
        args::verifier(self.networks, self.client)
    }

    /// Reads and checks a lock; nothing is said twice about one that is equal to a clean one.
    fn lock(&mut self, path: &Path, known: &[Checked]) -> Option<Checked> {
        let lock = self.read(path, LockFile::read(path))?;
        let path = path.to_owned();
        if known.iter().any(|it| it.clean && it.lock == lock) {
            return Some(Checked {
                path,
                lock,
                comparable: true,
                clean: true,
            });
        }
        let found = self.verifier().lock(&lock);
        let comparable = is_comparable(&lock, &found);
        let clean = found.is_empty();
        for it in found {
            self.add(&path, it.path, it.problem);
        }
        Some(Checked {
            path,
            lock,
            comparable,
            clean,
        })
    }

    fn definition(&mut self, path: &Path) -> Option<Definition> {
        let definition = self.read(path, Definition::read(path))?;
        for it in self.verifier().definition(&definition) {
            self.add(path, it.path, it.problem);
        }
        Some(definition)
    }

    fn read<T>(&mut self, path: &Path, read: Result<T, ReadError>) -> Option<T> {
        match read {
            Ok(content) => Some(content),
            Err(ReadError::Parse { source, .. }) => {
                self.add(path, source.path, source.problem);
                None
            }
            Err(ReadError::Io { source, .. }) => {
                self.add(path, "", Problem::Unreadable(source));
                None
            }
            // Locks as nodes use them are not read here.
            Err(other) => {
                self.add(path, "", Problem::Unreadable(io::Error::other(other)));
                None
            }
        }
    }

    /// One node's directory, or several in `parent`.
    fn directories(&mut self, parent: &Path, dirs: &[PathBuf]) {
        let alone = dirs == [parent];
        let mut known = Vec::new();
        let mut own = Vec::new();
        for dir in dirs {
            let path = dir.join(LOCK_FILE);
            let read = if !path.exists() {
                None
            } else if !path.is_file() {
                self.add(&path, "", Problem::NotAFile);
                None
            } else {
                self.lock(&path, &known)
            };
            own.push(read.is_some().then_some(known.len()));
            known.extend(read);
        }
        let reference = self.reference(&known);
        if let Some(at) = reference {
            self.subject = Some(Subject::Lock(Box::new(known[at].lock.clone())));
        }
        for (dir, own) in dirs.iter().zip(own) {
            let own = own.map(|at| &known[at]);
            let right = |it: &&Checked| it.comparable;
            let lock = own.filter(right).or_else(|| {
                let it = reference.map(|at| &known[at]).filter(right)?;
                // Of another cluster it would blame everything.
                own.is_none_or(|own| own.lock.lock_hash == it.lock.lock_hash)
                    .then_some(it)
            });
            let node = self.node(dir, own, lock.map(|it| &it.lock));
            self.nodes.push(node);
        }
        if !alone {
            let path = parent.join(DEFINITION_FILE);
            if path.is_file() {
                let definition = self.definition(&path);
                let lock = reference.map(|at| &known[at]).filter(|it| it.comparable);
                let lock = lock.map(|it| &it.lock);
                self.compare_definition(&path, definition.as_ref(), lock);
            }
            self.together(parent, reference.map(|at| &known[at]));
        }
        if self.subject.is_none() {
            let path = dirs.first().map(|dir| dir.join(DEFINITION_FILE));
            let definition = path.and_then(|path| Definition::read(path).ok());
            self.subject = definition.map(|it| Subject::Definition(Box::new(it)));
        }
    }

    /// Which lock the others are compared with: the most frequent of those that are right. Says which
    /// differ from it.
    fn reference(&mut self, known: &[Checked]) -> Option<usize> {
        let count = |at: usize| {
            let same = |it: &&Checked| it.lock.lock_hash == known[at].lock.lock_hash;
            known.iter().filter(|it| it.comparable).filter(same).count()
        };
        let right = (0..known.len()).filter(|at| known[*at].comparable);
        // The first of several that are as frequent, and rather one without any finding.
        let Some(at) = right.rev().max_by_key(|at| (count(*at), known[*at].clean)) else {
            return (!known.is_empty()).then_some(0);
        };
        let reference = &known[at];
        for it in known.iter().filter(|it| it.comparable) {
            let other = reference.path.clone();
            if it.lock.lock_hash != reference.lock.lock_hash {
                self.add(&it.path, "lock_hash", Problem::OtherCluster { other });
            } else if it.lock != reference.lock && it.clean && reference.clean {
                self.add(&it.path, "", Problem::OtherContent { other });
            }
        }
        Some(at)
    }

    fn compare_definition(
        &mut self,
        path: &Path,
        definition: Option<&Definition>,
        lock: Option<&LockFile>,
    ) {
        if let (Some(definition), Some(lock)) = (definition, lock)
            && definition.config_hash != lock.definition.config_hash
        {
            self.add(path, "config_hash", Problem::OtherDefinition);
        }
    }

    /// What only several nodes can tell.
    fn together(&mut self, parent: &Path, reference: Option<&Checked>) {
        let mut present: Vec<(usize, PathBuf)> = Vec::new();
        let mut twice = Vec::new();
        for node in &self.nodes {
            let Some(operator) = node.operator else {
                continue;
            };
            match present.iter().find(|(it, _)| *it == operator) {
                Some((_, first)) => twice.push((node.dir.clone(), operator, first.clone())),
                None => present.push((operator, node.dir.clone())),
            }
        }
        for (dir, operator, first) in twice {
            self.add(dir, "", Problem::SameOperator { operator, first });
        }
        let Some(Checked {
            path,
            lock,
            comparable: true,
            ..
        }) = reference
        else {
            return;
        };
        let all = 0..lock.definition.operators.len();
        let operators: Vec<_> = all
            .filter(|it| !present.iter().any(|(operator, _)| operator == it))
            .collect();
        if !operators.is_empty() {
            self.add(parent, "", Problem::AbsentNodes { operators });
        }
        let Ok(threshold) = lock.definition.usable_threshold() else {
            return;
        };
        let problems = keys::recombine(&self.nodes, &lock.validators, threshold as usize);
        for (path_in_lock, problem) in problems {
            let file = match problem {
                Problem::TooFewShares { .. } => parent,
                _ => path,
            };
            self.add(file, path_in_lock, problem);
        }
    }
}

/// Whether the content of a lock is what the cluster agreed to, although perhaps not all signed it.
fn is_comparable(lock: &LockFile, found: &[verify::Finding]) -> bool {
    let errors = found.iter().filter(|it| it.severity() == Severity::Error);
    let mut kinds = errors
        .map(|it| is_about_signers(it.rule(), &it.path))
        .peekable();
    kinds.peek().is_none() || (kinds.all(|it| it) && is_vouched_for(lock, found))
}

/// Whether signatures bind the content: hashes alone are right again after whoever changed it has
/// computed them. All shares together signed it, or as many nodes as make a key.
fn is_vouched_for(lock: &LockFile, found: &[verify::Finding]) -> bool {
    if found.iter().all(|it| it.path != AGGREGATE) {
        return true;
    }
    let Ok(threshold) = lock.definition.usable_threshold() else {
        return false;
    };
    let wrong = found
        .iter()
        .filter(|it| it.path.starts_with("node_signatures["));
    let signed = lock
        .node_signatures
        .len()
        .min(lock.definition.operators.len());
    signed.saturating_sub(wrong.count()) >= threshold as usize
}

/// Whether an error says only that somebody did not sign, not that the content is wrong.
fn is_about_signers(rule: &str, path: &str) -> bool {
    const RULES: [&str; 6] = [
        "wallet-signature",
        "contract-signature",
        "signature-missing",
        "signature-length",
        "partly-signed",
        "creator-unsigned",
    ];
    RULES.contains(&rule) || path == AGGREGATE || path.starts_with("node_signatures")
}

fn is_node(dir: &Path) -> bool {
    dir.join(LOCK_FILE).exists() || dir.join(keyfile::FILE_NAME).exists()
}

/// What a file is: by its name, or else by what it says. What cannot be told is left to the reader of
/// definitions, which says what is wrong.
fn content(path: &Path) -> io::Result<Content> {
    use io::Read;

    match path.file_name().and_then(OsStr::to_str) {
        Some(DEFINITION_FILE) => return Ok(Content::Definition),
        Some(LOCK_FILE) => return Ok(Content::Lock),
        _ => {}
    }
    let mut start = Vec::new();
    // What is no file is not opened: a pipe would wait for a writer.
    if !fs::metadata(path)?.is_file() {
        return Ok(Content::Definition);
    }
    fs::File::open(path)?
        .take(SNIFF_BYTES as u64)
        .read_to_end(&mut start)?;
    Ok(Content::of(&start))
}

/// What a file may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Definition,
    Lock,
    Neither,
}

impl Content {
    /// By the keys of the outermost object, as far as it can be read: names and texts inside may say
    /// anything.
    fn of(json: &[u8]) -> Self {
        /// Of every version.
        const DEFINITION_KEYS: [&str; 3] = ["operators", "fork_version", "config_hash"];

        if json.iter().find(|it| !it.is_ascii_whitespace()) != Some(&b'{') {
            return if json.is_empty() {
                Self::Definition
            } else {
                Self::Neither
            };
        }
        let mut keys = Keys::default();
        let read = serde_json::Deserializer::from_slice(json).deserialize_map(&mut keys);
        let has = |key: &str| keys.0.iter().any(|it| it.eq_ignore_ascii_case(key));
        if has("cluster_definition") {
            Self::Lock
        } else if read.is_err() || DEFINITION_KEYS.into_iter().any(has) {
            Self::Definition
        } else {
            Self::Neither
        }
    }
}

/// The first keys of an object; their values are skipped.
#[derive(Default)]
struct Keys(Vec<String>);

impl<'de> Visitor<'de> for &mut Keys {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key()? {
            if self.0.len() < MAX_KEYS {
                self.0.push(key);
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

fn fork_version(lock: &LockFile) -> Option<ForkVersion> {
    let bytes = lock.definition.fork_version.as_slice().try_into().ok()?;
    Some(ForkVersion(bytes))
}

/// The public keys of validators and of shares, as they stand in a lock.
fn public_key(bytes: &[u8]) -> Option<bls::PublicKey> {
    bls::PublicKey::from_bytes(bytes.try_into().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_its_outermost_keys_say() {
        for (json, content) in [
            (r#"{"cluster_definition":{"name":"a"}}"#, Content::Lock),
            (r#" {"Cluster_Definition":{"na"#, Content::Lock),
            (
                r#"{"name":"cluster_definition","config_hash":""}"#,
                Content::Definition,
            ),
            (
                r#"{"x":{"cluster_definition":{}},"operators":[]}"#,
                Content::Definition,
            ),
            (r#"{"name":"cut o"#, Content::Definition),
            ("", Content::Definition),
            (r#"[{"pubkey":"","fork_version":""}]"#, Content::Neither),
            (r#"{"crypto":{},"uuid":""}"#, Content::Neither),
            ("0a1b2c", Content::Neither),
        ] {
            assert_eq!(Content::of(json.as_bytes()), content, "{json}");
        }
    }
}
