//! Writes JSON as Charon does: one space of indent, no line break at the end, keys in a fixed order.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};

/// A text that grows.
pub(crate) struct Writer {
    out: String,
    depth: usize,
    /// Whether the innermost list or object has no entry yet.
    empty: bool,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self {
            out: String::new(),
            depth: 0,
            empty: true,
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.out.into_bytes()
    }

    pub(crate) fn object(&mut self, members: impl FnOnce(&mut Self)) {
        self.nested(['{', '}'], members);
    }

    /// `null` for an empty list.
    pub(crate) fn list<T>(&mut self, entries: &[T], each: impl FnMut(&mut Self, &T)) {
        if entries.is_empty() {
            self.out.push_str("null");
        } else {
            self.list_or_empty(entries, each);
        }
    }

    /// `[]` for an empty list.
    pub(crate) fn list_or_empty<T>(&mut self, entries: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.nested(['[', ']'], |it| {
            for entry in entries {
                it.next_entry();
                each(it, entry);
            }
        });
    }

    /// The key of the next member; its value comes next.
    pub(crate) fn key(&mut self, key: &str) -> &mut Self {
        self.next_entry();
        self.string(key);
        self.out.push_str(": ");
        self
    }

    /// A member that is left out when empty.
    pub(crate) fn text_unless_empty(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.key(key).string(text);
        }
    }

    pub(crate) fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\u{0}'..='\u{1f}' => {
                    self.display(format_args!("\\u{:04x}", u32::from(c)));
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    /// `""` for no bytes.
    pub(crate) fn hex(&mut self, bytes: &[u8]) {
        let prefix = if bytes.is_empty() { "" } else { "0x" };
        self.display(format_args!("\"{prefix}{}\"", hex::encode(bytes)));
    }

    pub(crate) fn base64(&mut self, bytes: &[u8]) {
        self.display(format_args!("\"{}\"", STANDARD.encode(bytes)));
    }

    pub(crate) fn display(&mut self, value: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = write!(self.out, "{value}");
    }

    fn nested(&mut self, [open, close]: [char; 2], entries: impl FnOnce(&mut Self)) {
        self.out.push(open);
        self.depth += 1;
        self.empty = true;
        entries(self);
        self.depth -= 1;
        if !self.empty {
            self.line();
        }
        self.empty = false;
        self.out.push(close);
    }

    fn next_entry(&mut self) {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        self.line();
    }

    fn line(&mut self) {
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', self.depth));
    }
}
