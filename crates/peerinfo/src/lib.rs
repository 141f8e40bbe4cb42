//! Who the peers of a cluster are: version, clock, nickname
