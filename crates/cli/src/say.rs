//! Lines on the terminal.
//!
//! Who has stopped reading, as `head` does, is no reason to stop: what a command does is done, and its
//! exit code tells. `println!` would end the program with a panic.
//!
//! Names of files, and what files and peers say, may hold control characters, which could rewrite the
//! terminal. None gets through but the ends of lines.

use std::{
    error::Error,
    fmt,
    io::{self, Write},
};

/// A line on standard output.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::say::out(format_args!($($text)*))
    };
}

/// A line on standard error, beside what scripts take from standard output.
macro_rules! note {
    ($($text:tt)*) => {
        $crate::say::err(format_args!($($text)*))
    };
}

pub(crate) use {note, say};

pub(crate) fn out(line: fmt::Arguments<'_>) {
    let _ = writeln!(
        io::stdout(),
        "{}",
        without_controls(&line.to_string(), &['\n'])
    );
}

pub(crate) fn err(line: fmt::Arguments<'_>) {
    let _ = writeln!(
        io::stderr(),
        "{}",
        without_controls(&line.to_string(), &['\n'])
    );
}

/// An error with its causes.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// What a file says, within one line.
pub(crate) fn shown(text: &str) -> String {
    without_controls(text, &[])
}

fn without_controls(text: &str, but: &[char]) -> String {
    let shown = |c: char| match c {
        c if c.is_control() && !but.contains(&c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_can_rewrite_the_terminal() {
        assert_eq!(
            shown("a\x1b[2J\nb\u{9b}é"),
            "a\u{fffd}[2J\u{fffd}b\u{fffd}é"
        );
        assert_eq!(without_controls("a\r\nb", &['\n']), "a\u{fffd}\nb");
    }
}
