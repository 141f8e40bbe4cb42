//! Reads JSON straight into typed values, with the leniency that Charon's files rely on.
//!
//! The rules are those of Go's `encoding/json`, which decides what Charon accepts: unknown keys are
//! skipped, keys match in any letter case when none matches exactly, of a key given twice the last
//! counts, `null` changes nothing or empties a list, what is not valid Unicode becomes U+FFFD, and
//! something after the value is an error. Hence no `serde_json`, which differs in each of these.
//!
//! - **Bounds:** [`MAX_DEPTH`] levels (Charon: 10,000; no file needs more than six). Nothing is kept
//!   of what is skipped; lists are bounded by the caller.

use base64::{
    Engine, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig},
};

use crate::error::{FieldError, ParseProblem};

/// Deepest nesting that is read.
const MAX_DEPTH: usize = 128;

/// Standard and padded, and as forgiving about the last character's spare bits as Go's decoder.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

pub(crate) type Result<T> = std::result::Result<T, FieldError<ParseProblem>>;

/// What a JSON value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Bool,
    /// A number.
    Number,
    /// A string.
    String,
    /// A list.
    Array,
    /// An object.
    Object,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Bool => "a truth value",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "a list",
            Self::Object => "an object",
        })
    }
}

#[derive(Debug, Clone, Copy)]
enum Segment {
    Key(&'static str),
    Index(usize),
}

/// A place in a text, moving forward.
pub(crate) struct Reader<'a> {
    json: &'a [u8],
    at: usize,
    path: Vec<Segment>,
    depth: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(json: &'a [u8]) -> Self {
        Self {
            json,
            at: 0,
            path: Vec::new(),
            depth: 0,
        }
    }

    /// Where it is, for [`Reader::rewind`].
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Reads again from an earlier place of the same level.
    pub(crate) fn rewind(&mut self, position: usize) {
        self.at = position;
    }

    /// Nothing but white space may follow.
    pub(crate) fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.syntax("nothing more")),
        }
    }

    /// An error about the value that is being read.
    pub(crate) fn error(&self, problem: ParseProblem) -> FieldError<ParseProblem> {
        let mut path = String::new();
        for segment in &self.path {
            match segment {
                Segment::Key(key) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(key);
                }
                Segment::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        FieldError { path, problem }
    }

    /// An error about a member of the object that is being read.
    pub(crate) fn error_at(
        &mut self,
        key: &'static str,
        problem: ParseProblem,
    ) -> FieldError<ParseProblem> {
        self.path.push(Segment::Key(key));
        let error = self.error(problem);
        self.path.pop();
        error
    }

    /// Calls `member` for each of `keys` that is there, to read its value. `null` is an object
    /// without members.
    pub(crate) fn object(
        &mut self,
        keys: &[&'static str],
        mut member: impl FnMut(&mut Self, &'static str) -> Result<()>,
    ) -> Result<()> {
        if self.null()? {
            return Ok(());
        }
        self.expect_kind(Kind::Object)?;
        self.open()?;
        if !self.closes(b'}') {
            loop {
                if self.peek() != Some(b'"') {
                    return Err(self.syntax("a key"));
                }
                let key = self.raw_string()?;
                if self.peek() != Some(b':') {
                    return Err(self.syntax("`:`"));
                }
                self.at += 1;
                match matching(keys, &key) {
                    Some(key) => {
                        self.path.push(Segment::Key(key));
                        member(self, key)?;
                        self.path.pop();
                    }
                    None => self.skip()?,
                }
                if !self.comma_or(b'}')? {
                    break;
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads a list, element by element, into `out`. `null` is the empty list.
    pub(crate) fn array<T: Default>(
        &mut self,
        out: &mut Vec<T>,
        max: usize,
        mut element: impl FnMut(&mut Self, &mut T) -> Result<()>,
    ) -> Result<()> {
        if self.null()? {
            out.clear();
            return Ok(());
        }
        self.expect_kind(Kind::Array)?;
        self.open()?;
        let mut count = 0;
        if !self.closes(b']') {
            loop {
                if count == max {
                    return Err(self.error(ParseProblem::TooManyEntries { max }));
                }
                if count == out.len() {
                    out.push(T::default());
                }
                self.path.push(Segment::Index(count));
                element(self, &mut out[count])?;
                self.path.pop();
                count += 1;
                if !self.comma_or(b']')? {
                    break;
                }
            }
        }
        out.truncate(count);
        self.depth -= 1;
        Ok(())
    }

    /// `null` changes nothing.
    pub(crate) fn string(&mut self, out: &mut String) -> Result<()> {
        if !self.null()? {
            self.expect_kind(Kind::String)?;
            *out = self.raw_string()?;
        }
        Ok(())
    }

    /// `null` changes nothing.
    pub(crate) fn bool(&mut self, out: &mut bool) -> Result<()> {
        if self.null()? {
            return Ok(());
        }
        self.expect_kind(Kind::Bool)?;
        *out = self.json[self.at] == b't';
        self.literal(if *out { b"true" } else { b"false" })
    }

    /// `null` changes nothing.
    pub(crate) fn i64(&mut self, out: &mut i64) -> Result<()> {
        self.number(out)
    }

    /// `null` changes nothing.
    pub(crate) fn u64(&mut self, out: &mut u64) -> Result<()> {
        self.number(out)
    }

    /// A signed number inside a string. `null` changes nothing, with or without quotes.
    pub(crate) fn quoted_i64(&mut self, out: &mut i64) -> Result<()> {
        if self.null()? {
            return Ok(());
        }
        self.expect_kind(Kind::String)?;
        let text = self.raw_string()?;
        if text == "null" {
            return Ok(());
        }
        // `i64` would take a plus sign.
        match text.parse() {
            Ok(number) if !text.starts_with('+') => *out = number,
            _ => return Err(self.error(ParseProblem::QuotedNumber)),
        }
        Ok(())
    }

    /// An amount inside a string: digits only, and no `null`.
    pub(crate) fn quoted_u64(&mut self, out: &mut u64) -> Result<()> {
        self.expect_kind(Kind::String)?;
        let text = self.raw_string()?;
        match text.parse() {
            Ok(number) if !text.starts_with('+') => *out = number,
            _ => return Err(self.error(ParseProblem::QuotedNumber)),
        }
        Ok(())
    }

    /// Hex, with or without `0x`. `null` is empty.
    pub(crate) fn hex(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let mut text = String::new();
        self.string(&mut text)?;
        let digits = text.strip_prefix("0x").unwrap_or(&text);
        *out = hex::decode(digits).map_err(|_| self.error(ParseProblem::Hex))?;
        Ok(())
    }

    /// Padded standard base64. `null` is empty.
    pub(crate) fn base64(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let mut text = String::new();
        self.string(&mut text)?;
        text.retain(|c| !matches!(c, '\r' | '\n'));
        *out = BASE64
            .decode(text)
            .map_err(|_| self.error(ParseProblem::Base64))?;
        Ok(())
    }

    fn number<T: std::str::FromStr>(&mut self, out: &mut T) -> Result<()> {
        if self.null()? {
            return Ok(());
        }
        self.expect_kind(Kind::Number)?;
        let from = self.at;
        self.skip_number()?;
        // The grammar allows ASCII only.
        let text = std::str::from_utf8(&self.json[from..self.at]).unwrap_or_default();
        *out = text.parse().map_err(|_| self.error(ParseProblem::Number))?;
        Ok(())
    }

    /// Skips white space.
    fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.json.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    fn kind(&mut self) -> Result<Kind> {
        match self.peek() {
            Some(b'n') => Ok(Kind::Null),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b'"') => Ok(Kind::String),
            Some(b'[') => Ok(Kind::Array),
            Some(b'{') => Ok(Kind::Object),
            _ => Err(self.syntax("a value")),
        }
    }

    fn expect_kind(&mut self, expected: Kind) -> Result<()> {
        let found = self.kind()?;
        if found == expected {
            return Ok(());
        }
        Err(self.error(ParseProblem::Kind { expected, found }))
    }

    /// Takes a `null` if there is one.
    fn null(&mut self) -> Result<bool> {
        let is_null = self.kind()? == Kind::Null;
        if is_null {
            self.literal(b"null")?;
        }
        Ok(is_null)
    }

    fn literal(&mut self, text: &[u8]) -> Result<()> {
        if !self.json[self.at..].starts_with(text) {
            return Err(self.syntax("a value"));
        }
        self.at += text.len();
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(ParseProblem::TooDeep { max: MAX_DEPTH }));
        }
        Ok(())
    }

    /// Takes the end of an empty list or object if it is there.
    fn closes(&mut self, end: u8) -> bool {
        let closes = self.peek() == Some(end);
        if closes {
            self.at += 1;
        }
        closes
    }

    /// Whether another entry follows.
    fn comma_or(&mut self, end: u8) -> Result<bool> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == end => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.syntax(if end == b'}' {
                "`,` or `}`"
            } else {
                "`,` or `]`"
            })),
        }
    }

    /// Checks a value of any kind and keeps nothing.
    fn skip(&mut self) -> Result<()> {
        match self.kind()? {
            Kind::Null => self.literal(b"null"),
            Kind::Bool if self.json[self.at] == b't' => self.literal(b"true"),
            Kind::Bool => self.literal(b"false"),
            Kind::Number => self.skip_number(),
            Kind::String => self.raw_string().map(|_| ()),
            Kind::Object => self.object(&[], |_, _| Ok(())),
            Kind::Array => {
                self.open()?;
                if !self.closes(b']') {
                    loop {
                        self.skip()?;
                        if !self.comma_or(b']')? {
                            break;
                        }
                    }
                }
                self.depth -= 1;
                Ok(())
            }
        }
    }

    fn digits(&mut self) -> Result<()> {
        let from = self.at;
        while self.json.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == from {
            return Err(self.syntax("a digit"));
        }
        Ok(())
    }

    fn skip_number(&mut self) -> Result<()> {
        if self.json.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        if self.json.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.json.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.json.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.json.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// From the opening quote to the closing one.
    fn raw_string(&mut self) -> Result<String> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let from = self.at;
            while self
                .json
                .get(self.at)
                .is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f))
            {
                self.at += 1;
            }
            push_lossy(&mut out, &self.json[from..self.at]);
            match self.json.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => self.escape(&mut out)?,
                _ => return Err(self.syntax("a character of a string")),
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Result<()> {
        self.at += 1;
        let escaped = match self.json.get(self.at) {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(*byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let Some(unit) = self.code_unit(self.at + 1) else {
                    return Err(self.syntax("four hex digits"));
                };
                self.at += 4;
                // A pair of surrogates is one character, a lone one none.
                let pair = [unit, self.following_unit().unwrap_or_default()];
                match char::decode_utf16(pair).next() {
                    Some(Ok(c)) => {
                        if u32::from(c) > 0xffff {
                            self.at += 6;
                        }
                        c
                    }
                    _ => char::REPLACEMENT_CHARACTER,
                }
            }
            _ => return Err(self.syntax("an escaped character")),
        };
        self.at += 1;
        out.push(escaped);
        Ok(())
    }

    /// The value of a `\uXXXX` right after the one that ends here.
    fn following_unit(&self) -> Option<u16> {
        if self.json.get(self.at + 1..self.at + 3)? != b"\\u" {
            return None;
        }
        self.code_unit(self.at + 3)
    }

    fn code_unit(&self, at: usize) -> Option<u16> {
        let digits = self.json.get(at..at + 4)?;
        digits.iter().try_fold(0_u16, |unit, digit| {
            let digit = char::from(*digit).to_digit(16)?;
            Some((unit << 4) | u16::try_from(digit).ok()?)
        })
    }

    fn syntax(&mut self, expected: &'static str) -> FieldError<ParseProblem> {
        let before = &self.json[..self.at.min(self.json.len())];
        let line_start = before.iter().rposition(|byte| *byte == b'\n');
        self.error(ParseProblem::Syntax {
            line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
            column: before.len() - line_start.map_or(0, |at| at + 1) + 1,
            expected,
        })
    }
}

/// The exact key, or else one that differs in letter case only.
fn matching(keys: &[&'static str], key: &str) -> Option<&'static str> {
    let exact = keys.iter().find(|it| **it == key);
    let folded = || keys.iter().find(|it| it.chars().eq(key.chars().map(fold)));
    exact.or_else(folded).copied()
}

/// To lower case. Two characters outside ASCII fold into it.
fn fold(c: char) -> char {
    match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    }
}

/// One replacement character for each byte that is no UTF-8, as Go's decoder does it; the standard
/// library's makes one for several.
fn push_lossy(out: &mut String, mut bytes: &[u8]) {
    loop {
        match std::str::from_utf8(bytes) {
            Ok(text) => return out.push_str(text),
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                out.push_str(std::str::from_utf8(valid).unwrap_or_default());
                out.push(char::REPLACEMENT_CHARACTER);
                bytes = &rest[1..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_decoded_as_go_does() {
        for (json, text) in [
            (&br#""a\u0041\n\/""#[..], "aA\n/"),
            (br#""\ud83d\ude00""#, "\u{1f600}"),
            (br#""\ud83dx""#, "\u{fffd}x"),
            (br#""\ud83dA""#, "\u{fffd}A"),
            (br#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
            (b"\"\xff\xe2\x82x\"", "\u{fffd}\u{fffd}\u{fffd}x"),
            (b"\"\xed\xa0\x80\"", "\u{fffd}\u{fffd}\u{fffd}"),
        ] {
            let mut out = String::new();
            Reader::new(json).string(&mut out).unwrap();
            assert_eq!(out, text, "{}", json.escape_ascii());
        }
    }

    #[test]
    fn broken_text_is_refused_with_its_place() {
        for (json, line, column) in [
            ("{", 1, 2),
            ("{\"a\" 1}", 1, 6),
            ("{\"a\":\n 1 2}", 2, 4),
            ("{\"a\":01}", 1, 7),
            ("{\"a\":1.}", 1, 8),
            ("{\"a\":nul}", 1, 6),
            ("{\"a\":\"\\x\"}", 1, 8),
            ("{\"a\":\"\u{1}\"}", 1, 7),
            ("{\"a\":[1,]}", 1, 9),
            ("{} x", 1, 4),
            ("", 1, 1),
        ] {
            let mut reader = Reader::new(json.as_bytes());
            let error = reader
                .object(&[], |_, _| Ok(()))
                .and_then(|()| reader.end())
                .unwrap_err();
            match error.problem {
                ParseProblem::Syntax {
                    line: l, column: c, ..
                } => assert_eq!((l, c), (line, column), "{json:?}"),
                other => panic!("{json:?}: {other}"),
            }
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));

        assert!(Reader::new(nested(MAX_DEPTH).as_bytes()).skip().is_ok());
        let error = Reader::new(nested(MAX_DEPTH + 1).as_bytes()).skip();
        assert!(matches!(
            error.unwrap_err().problem,
            ParseProblem::TooDeep { .. }
        ));
        assert!(Reader::new("[".repeat(1 << 20).as_bytes()).skip().is_err());
    }

    #[test]
    fn keys_match_exactly_first_and_then_in_any_case() {
        let read = |json: &str| {
            let mut reader = Reader::new(json.as_bytes());
            let mut name = String::new();
            reader.object(&["name"], |it, _| it.string(&mut name))?;
            reader.end()?;
            Ok::<_, FieldError<ParseProblem>>(name)
        };

        assert_eq!(read(r#"{"NaMe":"a"}"#).unwrap(), "a");
        assert_eq!(read(r#"{"name":"a","NAME":"b"}"#).unwrap(), "b");
        assert_eq!(read(r#"{"name":"a","name":null}"#).unwrap(), "a");
        assert_eq!(read(r#"{"other":{"name":"a"}}"#).unwrap(), "");
        assert_eq!(read("null").unwrap(), "");
        let error = read(r#"{"name":1}"#).unwrap_err();
        assert_eq!(error.path, "name");
    }

    #[test]
    fn numbers_are_literals_of_their_type() {
        let signed = |json: &str| {
            let mut out = 7;
            Reader::new(json.as_bytes()).i64(&mut out).map(|()| out)
        };
        let unsigned = |json: &str| {
            let mut out = 7;
            Reader::new(json.as_bytes()).u64(&mut out).map(|()| out)
        };

        assert_eq!(signed("-0"), Ok(0));
        assert_eq!(signed("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(signed("null"), Ok(7));
        assert_eq!(unsigned("18446744073709551615"), Ok(u64::MAX));
        for json in ["1.0", "1e3", "9223372036854775808", "\"1\"", "true"] {
            assert!(signed(json).is_err(), "{json}");
        }
        for json in ["-1", "-0", "18446744073709551616"] {
            assert!(unsigned(json).is_err(), "{json}");
        }
    }
}
