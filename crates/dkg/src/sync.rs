//! The long-lived stream of a ceremony: steps, barriers, the end.
