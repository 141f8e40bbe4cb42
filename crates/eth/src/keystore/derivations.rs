//! What a new keystore takes its time for, made ahead.
//!
//! The key of a keystore comes from a password and a salt, both random. Nothing of it depends on what
//! will be encrypted, so that the cores can begin before there is anything to encrypt.
//!
//! - **Owner:** [`Derivations`]. Its threads end when all are made; when it is dropped, each after what
//!   it is at, some 40 ms, and the drop waits for them.
//! - **Bounds:** as many threads as told; [`MAX_AHEAD`] keys that nobody took yet, then they wait.
//! - **Secrets:** passwords and keys are wiped when dropped.

use std::{
    num::NonZeroUsize,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread::{self, JoinHandle},
};

use pluto_crypto::bls::SecretKey;

use super::{
    Cost, Keystore, Sealed,
    kdf::{self, Kdf, Key},
    password::Password,
};

/// Most keys that wait for somebody to take them: what two cores derive in ten seconds, and 200 KiB.
/// Chosen freely, larger is safe.
pub const MAX_AHEAD: usize = 1024;

/// Passwords of new keystores with their keys, being derived.
#[derive(Debug)]
pub struct Derivations {
    cost: Cost,
    /// Dropped when all are taken, or when the threads are to end.
    made: Option<Receiver<Derived>>,
    threads: Vec<JoinHandle<()>>,
}

impl Derivations {
    /// Begins to derive `count` keys on so many threads. A secure one takes about 20 ms of a core.
    #[must_use]
    pub fn start(count: usize, cost: Cost, threads: NonZeroUsize) -> Self {
        // Two in step are faster, unless that leaves a thread without work.
        let step = if count > threads.get() { 2 } else { 1 };
        let (sender, made) = mpsc::sync_channel(count.min(MAX_AHEAD));
        let next = Arc::new(AtomicUsize::new(0));
        let derive = || {
            let (sender, next) = (sender.clone(), Arc::clone(&next));
            thread::spawn(move || derive(&next, count, step, cost, &sender))
        };
        let threads = (0..count.div_ceil(step).min(threads.get())).map(|_| derive());
        Self {
            cost,
            threads: threads.collect(),
            made: Some(made),
        }
    }

    /// How long each takes to derive.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Encrypts a key with one of those that are derived. Waits for it; when all are taken it is
    /// derived here.
    pub fn seal(&mut self, secret: &SecretKey) -> Sealed {
        self.take().seal(secret)
    }

    fn take(&mut self) -> Derived {
        if let Some(derived) = self.made.as_ref().and_then(|made| made.recv().ok()) {
            return derived;
        }
        self.end();
        Derived::new(self.cost)
    }

    fn end(&mut self) {
        // Who wants to hand over another one finds nobody.
        self.made = None;
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join()
                && !thread::panicking()
            {
                resume_unwind(panic);
            }
        }
    }
}

impl Drop for Derivations {
    fn drop(&mut self) {
        self.end();
    }
}

fn derive(next: &AtomicUsize, count: usize, step: usize, cost: Cost, sender: &SyncSender<Derived>) {
    loop {
        let at = next.fetch_add(step, Ordering::Relaxed);
        let sent = match count.saturating_sub(at).min(step) {
            0 => return,
            1 => sender.send(Derived::new(cost)),
            _ => Derived::pair(cost)
                .into_iter()
                .try_for_each(|it| sender.send(it)),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// A password and the key that it stretches to.
struct Derived {
    password: Password,
    kdf: Kdf,
    key: Key,
}

impl Derived {
    fn new(cost: Cost) -> Self {
        let (password, kdf) = (Password::generate(), Kdf::new(cost));
        let key = kdf.derive(password.normalised().as_bytes());
        Self { password, kdf, key }
    }

    fn pair(cost: Cost) -> [Self; 2] {
        let passwords = [Password::generate(), Password::generate()];
        let kdfs = [Kdf::new(cost), Kdf::new(cost)];
        let keys = {
            let normalised = passwords.each_ref().map(Password::normalised);
            kdf::derive_pair(
                kdfs.each_ref(),
                normalised.each_ref().map(|password| password.as_bytes()),
            )
        };
        let [first, second] = passwords;
        let ([first_kdf, second_kdf], [first_key, second_key]) = (kdfs, keys);
        [
            Self {
                password: first,
                kdf: first_kdf,
                key: first_key,
            },
            Self {
                password: second,
                kdf: second_kdf,
                key: second_key,
            },
        ]
    }

    fn seal(self, secret: &SecretKey) -> Sealed {
        Sealed {
            keystore: Keystore::seal(secret, self.kdf, &self.key),
            password: self.password,
        }
    }
}
