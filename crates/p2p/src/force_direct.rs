//! From a relayed connection to a direct one.
//!
//! A policy of the dial planner. As long as a peer is connected through relays only, it is dialled
//! where identify says it is: at once when an address is learned, then with a back-off. The relayed
//! connection stays in use until a ping has come back on the direct one; then new streams go direct
//! and the relayed one is drained, never cut ([`conn_logger`](crate::conn_logger) decides that).
//! Once a peer could not be reached so, the one that accepted the circuit punches a hole besides
//! (DCUtR; p2p spec, section 6.1).
//!
//! - **Owner:** one state per peer, in the planner.
//! - **Bounds:** one attempt at a time and peer, and those of the planner.
//! - **Disconnect:** without any connection the planner's own pace holds, which is faster.

use std::time::Duration;

use crate::dialer::lane::Pace;

/// How a peer is dialled that is connected through relays only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForceDirect;

impl ForceDirect {
    /// The wait after the first failure.
    pub const BACKOFF_MIN: Duration = Duration::from_secs(1);
    /// The longest wait. A peer behind a NAT may never be reachable; Charon up to 1.10 tried each
    /// minute (p2p spec, section 6.2).
    pub const BACKOFF_MAX: Duration = Duration::from_secs(60);

    pub(crate) const PACE: Pace = Pace {
        min: Self::BACKOFF_MIN,
        max: Self::BACKOFF_MAX,
    };
}
