//! Reading fields of JSON files, with an error that names the field; writing as Charon does.
//!
//! Unknown keys are ignored and the last of equal keys counts, as for Charon. Errors never carry text
//! of the file: a password file given in place of a keystore must not end in a log.

use std::io;

use serde::Serialize;
use serde_json::{Value, ser::Formatter, ser::PrettyFormatter};

/// Why a JSON text was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not JSON at all.
    #[error("not JSON, at line {line}, column {column}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// Counted from 1; 0 before the first.
        column: usize,
    },
    /// A field is absent.
    #[error("{path} is missing")]
    Missing {
        /// Where it should be, such as `crypto.kdf.params.c`.
        path: String,
    },
    /// A field holds another type, or `null`.
    #[error("{path} is not {expected}")]
    WrongType {
        /// Where.
        path: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// A text that should be hex digits.
    #[error("{path} is not hexadecimal")]
    NotHex {
        /// Where.
        path: String,
    },
    /// Hex of another length.
    #[error("{path} has {found} bytes instead of {expected}")]
    WrongLength {
        /// Where.
        path: String,
        /// How many bytes belong there.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A choice that is not known here.
    #[error("{path} is not {supported}, which is what is supported")]
    Unsupported {
        /// Where.
        path: String,
        /// What is known.
        supported: &'static str,
    },
    /// A number beyond its bounds.
    #[error("{path} is out of range: {allowed}")]
    OutOfRange {
        /// Where.
        path: String,
        /// The bounds.
        allowed: &'static str,
    },
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Parses one value and nothing after it.
pub(crate) fn parse(text: &[u8]) -> Result<Value> {
    serde_json::from_slice(text).map_err(|error| Error::Syntax {
        line: error.line(),
        column: error.column(),
    })
}

/// A value and where it is.
pub(crate) struct Field<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> Field<'a> {
    pub(crate) fn root(value: &'a Value) -> Self {
        Self {
            value,
            path: String::new(),
        }
    }

    /// A field that must be there.
    pub(crate) fn get(&self, key: &str) -> Result<Field<'a>> {
        let path = self.child(key);
        match self.object()?.get(key) {
            Some(value) => Ok(Field { value, path }),
            None => Err(Error::Missing { path }),
        }
    }

    /// A field that may be absent or `null`.
    pub(crate) fn find(&self, key: &str) -> Result<Option<Field<'a>>> {
        Ok(match self.object()?.get(key) {
            None | Some(Value::Null) => None,
            Some(value) => Some(Field {
                value,
                path: self.child(key),
            }),
        })
    }

    pub(crate) fn elements(&self) -> Result<impl Iterator<Item = Field<'a>>> {
        let elements = self.value.as_array().ok_or_else(|| self.not("an array"))?;
        let path = self.path.clone();
        Ok(elements.iter().enumerate().map(move |(i, value)| Field {
            value,
            path: format!("{path}[{i}]"),
        }))
    }

    pub(crate) fn str(&self) -> Result<&'a str> {
        self.value.as_str().ok_or_else(|| self.not("a string"))
    }

    pub(crate) fn u64(&self) -> Result<u64> {
        self.value
            .as_u64()
            .ok_or_else(|| self.not("a whole number that is not negative"))
    }

    /// A number in a string, which is digits only.
    pub(crate) fn quoted_u64(&self) -> Result<u64> {
        let text = self.str()?;
        if text.is_empty() || !text.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(self.not("a decimal number in quotes"));
        }
        text.parse().map_err(|_| self.out_of_range("0 to 2^64 - 1"))
    }

    /// Hex digits without `0x`.
    pub(crate) fn hex(&self) -> Result<Vec<u8>> {
        self.decode(self.str()?)
    }

    /// Hex digits without `0x`, of known length.
    pub(crate) fn hex_array<const N: usize>(&self) -> Result<[u8; N]> {
        self.array(self.hex()?)
    }

    /// Hex digits with or without `0x`, of known length.
    pub(crate) fn hex0x_array<const N: usize>(&self) -> Result<[u8; N]> {
        let text = self.str()?;
        self.array(self.decode(text.strip_prefix("0x").unwrap_or(text))?)
    }

    fn decode(&self, digits: &str) -> Result<Vec<u8>> {
        hex::decode(digits).map_err(|_| Error::NotHex {
            path: self.path.clone(),
        })
    }

    fn array<const N: usize>(&self, bytes: Vec<u8>) -> Result<[u8; N]> {
        bytes
            .try_into()
            .map_err(|bytes: Vec<u8>| Error::WrongLength {
                path: self.path.clone(),
                expected: N,
                found: bytes.len(),
            })
    }

    /// Checks that a choice is the only one known.
    pub(crate) fn must_be(&self, supported: &'static str) -> Result<()> {
        if self.str()? == supported {
            Ok(())
        } else {
            Err(self.unsupported(supported))
        }
    }

    pub(crate) fn unsupported(&self, supported: &'static str) -> Error {
        Error::Unsupported {
            path: self.path.clone(),
            supported,
        }
    }

    pub(crate) fn out_of_range(&self, allowed: &'static str) -> Error {
        Error::OutOfRange {
            path: self.path.clone(),
            allowed,
        }
    }

    fn not(&self, expected: &'static str) -> Error {
        let path = if self.path.is_empty() {
            "the file".to_owned()
        } else {
            self.path.clone()
        };
        Error::WrongType { path, expected }
    }

    fn object(&self) -> Result<&'a serde_json::Map<String, Value>> {
        self.value.as_object().ok_or_else(|| self.not("an object"))
    }

    fn child(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }
}

/// The text that Charon writes for a value: indented, without a newline at the end.
pub(crate) fn to_vec(value: &impl Serialize, indent: &'static str) -> Vec<u8> {
    let mut text = Vec::new();
    let formatter = GoFormatter(PrettyFormatter::with_indent(indent.as_bytes()));
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    value
        .serialize(&mut serializer)
        .expect("structs of strings and numbers serialise into memory");
    text
}

/// Escapes what Go's encoder escapes beyond JSON's needs (spec cluster, section 12, 16).
struct GoFormatter(PrettyFormatter<'static>);

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let special = |c| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
        let mut rest = fragment;
        while let Some(at) = rest.find(special) {
            let (plain, tail) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let mut chars = tail.chars();
            if let Some(c) = chars.next() {
                write!(writer, "\\u{:04x}", u32::from(c))?;
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_as_go_does() {
        let text = to_vec(&["a<b>&\u{2028}\u{2029}\"\u{e9}"], " ");

        assert_eq!(
            String::from_utf8(text).unwrap(),
            "[\n \"a\\u003cb\\u003e\\u0026\\u2028\\u2029\\\"\u{e9}\"\n]"
        );
    }

    #[test]
    fn errors_name_the_field_and_no_text_of_the_file() {
        let value = parse(br#"{"a":[{"b":"secret"}],"n":-1}"#).unwrap();
        let root = Field::root(&value);
        let a = root.get("a").unwrap().elements().unwrap().next().unwrap();
        let errors = [
            (a.get("c").err(), "a[0].c is missing"),
            (
                a.get("b").unwrap().u64().err(),
                "a[0].b is not a whole number that is not negative",
            ),
            (a.get("b").unwrap().hex().err(), "a[0].b is not hexadecimal"),
            (
                root.get("n").unwrap().u64().err(),
                "n is not a whole number that is not negative",
            ),
            (parse(b"secret").err(), "not JSON, at line 1, column 1"),
            (
                Field::root(&Value::Null).str().err(),
                "the file is not a string",
            ),
        ];
        for (error, text) in errors {
            assert_eq!(error.unwrap().to_string(), text);
        }
    }

    #[test]
    fn numbers_in_quotes_are_digits_only() {
        let read = |text: &str| Field::root(&Value::from(text)).quoted_u64();

        assert_eq!(read("007"), Ok(7));
        assert_eq!(read("18446744073709551615"), Ok(u64::MAX));
        for text in ["", "+1", "-1", "1_0", " 1", "1.0", "18446744073709551616"] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }
}
