//! Lines on the terminal.
//!
//! Who has stopped reading, as `head` does, is no reason to stop: what a command does is done, and its
//! exit code tells. `println!` would end the program with a panic.

use std::{
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
    let _ = writeln!(io::stdout(), "{line}");
}

pub(crate) fn err(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}
