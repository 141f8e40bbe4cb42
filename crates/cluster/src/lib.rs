//! Cluster files: who the operators and validators are
