//! The dkd command.
fn main() {}
