//! What is printed.
#![allow(clippy::print_stdout, clippy::print_stderr)]

/// Says a line.
pub fn say(text: &str) {
    println!("{text}");
}

/// Says what went wrong.
pub fn fail(text: &str) {
    eprintln!("{text}");
}
