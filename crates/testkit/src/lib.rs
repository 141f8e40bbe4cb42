//! Clusters in one process and faulty links, for tests
