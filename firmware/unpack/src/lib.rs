//! Containers taken apart in memory, within a budget.
#![forbid(unsafe_code)]
