//! Which duties are taken from others.
//!
//! Spec: duties, section 4.1. Without a bound on what is to come, a member that signs for slots
//! which nobody will ever reach fills the memory of all others.

use std::{
    num::NonZeroU64,
    time::{Duration, SystemTime},
};

use pluto_core::{Duty, Slot};

/// How many epochs ahead of the present one a duty may be; Charon's value.
pub const EPOCHS_AHEAD: u64 = 2;

/// Why a duty is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// It is too far in the future: nobody can have it yet.
    #[error("{duty} is too far ahead: the newest slot that is taken is {newest}")]
    TooFarAhead {
        /// The duty.
        duty: Duty,
        /// The newest slot.
        newest: Slot,
    },
    /// It is none that this application takes part in.
    #[error("{duty} is not taken part in")]
    NotOurs {
        /// The duty.
        duty: Duty,
    },
}

/// Says which duties are taken. Called once for each message, before anything in it is checked;
/// it must not wait.
pub trait Gate: Send + Sync + 'static {
    /// Whether signatures for the duty are taken now.
    fn check(&self, duty: Duty) -> Result<(), GateError>;
}

impl<F: Fn(Duty) -> Result<(), GateError> + Send + Sync + 'static> Gate for F {
    fn check(&self, duty: Duty) -> Result<(), GateError> {
        self(duty)
    }
}

/// Takes every duty. For tools that only look, and keep nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct AnyDuty;

impl Gate for AnyDuty {
    fn check(&self, _: Duty) -> Result<(), GateError> {
        Ok(())
    }
}

/// Takes what Charon takes: every duty until [`EPOCHS_AHEAD`] epochs after the present one. What is
/// over is for the application to drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epochs {
    /// When slot 0 began. Before that it is epoch 0.
    pub genesis: SystemTime,
    /// How long a slot takes, at least a nanosecond.
    pub slot_duration: Duration,
    /// To get from a slot to its epoch.
    pub slots_per_epoch: NonZeroU64,
}

impl Epochs {
    /// The newest slot that is taken at a time.
    #[must_use]
    pub fn newest(&self, now: SystemTime) -> Slot {
        let passed = now.duration_since(self.genesis).unwrap_or_default();
        let slot = passed.as_nanos() / self.slot_duration.as_nanos().max(1);
        let epoch = u64::try_from(slot).unwrap_or(u64::MAX) / self.slots_per_epoch;
        let after = epoch.saturating_add(EPOCHS_AHEAD + 1);
        Slot(after.saturating_mul(self.slots_per_epoch.get()) - 1)
    }
}

impl Gate for Epochs {
    fn check(&self, duty: Duty) -> Result<(), GateError> {
        let newest = self.newest(SystemTime::now());
        if duty.slot > newest {
            return Err(GateError::TooFarAhead { duty, newest });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pluto_core::DutyType;

    use super::*;

    #[test]
    fn the_newest_slot_is_the_last_of_two_epochs_ahead() {
        let genesis = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let epochs = Epochs {
            genesis,
            slot_duration: Duration::from_secs(12),
            slots_per_epoch: NonZeroU64::new(32).unwrap(),
        };
        let epoch = 32 * 12;
        for (seconds, newest) in [(0, 95), (epoch - 1, 95), (epoch, 127), (10 * epoch, 415)] {
            let now = genesis + Duration::from_secs(seconds);
            assert_eq!(epochs.newest(now), Slot(newest), "after {seconds} s");
        }
        assert_eq!(epochs.newest(SystemTime::UNIX_EPOCH), Slot(95));
    }

    #[test]
    fn no_clock_makes_it_overflow() {
        let now = SystemTime::now();
        let epochs = Epochs {
            genesis: SystemTime::UNIX_EPOCH,
            slot_duration: Duration::ZERO,
            slots_per_epoch: NonZeroU64::new(32).unwrap(),
        };
        assert!(epochs.newest(now) > Slot(1 << 60));
        let duty = Duty::new(u64::MAX, DutyType::Randao);
        let hasty = Epochs {
            slot_duration: Duration::from_secs(12),
            ..epochs
        };
        assert!(matches!(
            hasty.check(duty),
            Err(GateError::TooFarAhead { .. })
        ));
    }
}
