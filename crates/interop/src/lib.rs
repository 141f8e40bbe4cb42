//! Tests against a live Charon
