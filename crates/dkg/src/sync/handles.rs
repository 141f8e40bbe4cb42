//! What a ceremony holds in its hands.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    core::Progress,
    reason::{MAX_TEXT, Reason, Step, WaitError, tame},
    shared::Shared,
    version::Agreement,
};

/// How long the others have to fetch why the ceremony ended: they ask each 100 ms.
const FAREWELL: Duration = Duration::from_millis(700);

/// What this node tells the others. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

/// What the others tell this node. Cheap to clone.
///
/// Every wait ends when the ceremony does, with its reason, and when its token is cancelled; it may be
/// dropped at any await and nothing is lost. At the end of the ceremony it first waits, for a second at
/// the latest, until all who are there have been told: whoever got the reason may drop the node, and no
/// other operator waits for ever.
#[derive(Debug, Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

impl Client {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Goes on by one step and says so: gives the barrier that this node works towards from now on. Once
    /// the ceremony has ended nothing changes any more.
    pub fn advance(&self) -> Step {
        let now = std::time::Instant::now();
        self.shared.with(|core| {
            let next = Step(core.step().0.saturating_add(1));
            core.set_step(next, now);
            core.step()
        })
    }

    /// As [`advance`](Self::advance), to a step of the caller's. Steps only grow, and by one at a time:
    /// the others take a greater jump for a restart, and end the ceremony with this node's name.
    pub fn set_step(&self, step: Step) {
        let now = std::time::Instant::now();
        self.shared.with(|core| core.set_step(step, now));
    }

    /// Says that this node has everything it needs and is about to go. Then
    /// [`Server::wait_shutdown`].
    pub fn shutdown(&self) {
        self.shared.with(|core| core.set_shutdown());
    }

    /// Ends the ceremony for everybody, with words that every other operator will read; at most
    /// [`MAX_TEXT`] bytes of them are sent. If it has ended already, that reason stays.
    ///
    /// Resolves once all who are there have shown that they know, after 0.7 s at the latest. Keep the node
    /// until then. It ends at once even if this is dropped.
    pub fn fail(&self, text: &str) -> impl Future<Output = ()> + Send + use<> {
        let text = tame(text, MAX_TEXT);
        self.shared.with(|core| core.end(Reason::Ours { text }));
        let shared = self.shared.clone();
        async move { farewell(&shared).await }
    }
}

/// Waits until all who are there know why the ceremony ended, or have had their time.
async fn farewell(shared: &Shared) {
    let Some(ended) = shared.ended_at() else {
        return;
    };
    let mut progress = shared.progress.subscribe();
    let told = progress.wait_for(|progress| {
        // Without a node nobody can be told.
        matches!(progress.ended, Some(Reason::NodeGone { .. })) || progress.all_know_end()
    });
    // Who does not ask in time is not there.
    let _ = timeout_at(ended + FAREWELL, told).await;
}

impl Server {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Waits until all other operators are identified, answer this node and have said something
    /// valid, and gives what they have in common. There is no limit: operators start when they like.
    pub async fn wait_connected(&self, token: &CancellationToken) -> Result<Agreement, WaitError> {
        self.wait(token, |progress| {
            let agreement = progress.agreement();
            agreement.filter(|_| progress.ended.is_none() && progress.all_connected())
        })
        .await
    }

    /// Waits until all other operators have reached the step.
    pub async fn wait_step(&self, step: Step, token: &CancellationToken) -> Result<(), WaitError> {
        self.wait(token, |progress| {
            (progress.ended.is_none() && progress.all_at(step)).then_some(())
        })
        .await
    }

    /// Waits until all other operators have said that they are done and know that this node is
    /// ([`Client::shutdown`]).
    pub async fn wait_shutdown(&self, token: &CancellationToken) -> Result<(), WaitError> {
        // Whoever has finished is not disturbed by what happens afterwards.
        self.wait(token, |progress| progress.all_shut().then_some(()))
            .await
    }

    /// Waits until the ceremony ends early and all others have been told, and gives the reason.
    /// [`changes`](Self::changes) and [`News::Ended`](super::News::Ended) tell it at once.
    pub async fn ended(&self) -> Reason {
        let mut progress = self.shared.progress.subscribe();
        let ended = progress.wait_for(|progress| progress.ended.is_some()).await;
        let ended = ended.ok().and_then(|progress| progress.ended.clone());
        let Some(reason) = ended else {
            return self.gone();
        };
        farewell(&self.shared).await;
        reason
    }

    /// How it stands.
    pub fn progress(&self) -> Arc<Progress> {
        self.shared.progress.borrow().clone()
    }

    /// How it stands, now and after each change.
    pub fn changes(&self) -> watch::Receiver<Arc<Progress>> {
        self.shared.progress.subscribe()
    }

    async fn wait<T>(
        &self,
        token: &CancellationToken,
        mut is_so: impl FnMut(&Progress) -> Option<T>,
    ) -> Result<T, WaitError> {
        let mut changes = self.shared.progress.subscribe();
        loop {
            let progress = changes.borrow_and_update().clone();
            if let Some(found) = is_so(&progress) {
                return Ok(found);
            }
            if let Some(reason) = &progress.ended {
                token.run_until_cancelled(farewell(&self.shared)).await;
                return Err(reason.clone().into());
            }
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return Err(self.gone().into());
                    }
                }
                () = token.cancelled() => {
                    return Err(WaitError::Cancelled { step: progress.step });
                }
            }
        }
    }

    fn gone(&self) -> Reason {
        Reason::NodeGone {
            step: self.progress().step,
        }
    }
}
