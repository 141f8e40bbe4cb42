//! Passwords of keystores.

use std::{fmt, path::Path};

use rand::Rng;
use unicode_normalization::{UnicodeNormalization, char::canonical_combining_class};
use zeroize::Zeroizing;

use crate::files;

/// Longest password file that is read. Charon's have 32 characters; the rest is room for people's.
pub const MAX_FILE_BYTES: usize = 4096;

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file was not read.
    #[error(transparent)]
    File(#[from] files::Error),
    /// Passwords are text.
    #[error("the password is not UTF-8 text")]
    NotUtf8,
}

/// A password as it was given. Wiped when dropped; `Debug` shows no part of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// 32 hex digits, as Charon writes to disk.
    #[must_use]
    pub fn generate() -> Self {
        Self::random::<16>()
    }

    /// 64 hex digits, as Charon sends to a key manager.
    #[must_use]
    pub fn generate_for_keymanager() -> Self {
        Self::random::<32>()
    }

    fn random<const N: usize>() -> Self {
        let mut bytes = Zeroizing::new([0; N]);
        rand::rng().fill_bytes(bytes.as_mut_slice());
        Self(Zeroizing::new(hex::encode(bytes.as_slice())))
    }

    /// Reads a password file: all of it. What ends a line does not count; spaces do.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::from_bytes(&files::read(path.as_ref(), MAX_FILE_BYTES)?)
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(bytes).map_err(|_| Error::NotUtf8)?;
        Ok(Self::from(text))
    }

    /// The password itself, to write it down.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is stretched: compatibility decomposition (NFKD) without control characters.
    ///
    /// EIP-2335 removes all control characters, Charon only those of one byte; a new keystore must
    /// be readable by Charon.
    pub(super) fn normalised(&self) -> Zeroizing<String> {
        collect(&self.0, |text, push| {
            text.nfkd().filter(|c| !c.is_ascii_control()).for_each(push);
        })
    }

    /// What may have been stretched instead, in the order to try: the form of EIP-2335, and that of
    /// an older library, which lost all but the first code point of each composed character.
    pub(super) fn other_forms(&self) -> Vec<Zeroizing<String>> {
        let normalised = self.normalised();
        let eip_2335 = collect(&self.0, |text, push| {
            text.nfkd().filter(|c| !c.is_control()).for_each(push);
        });
        let first_of_each = collect(&self.0, |text, push| {
            let mut started = false;
            text.chars()
                .map(|c| leading_jamo(c).unwrap_or(c))
                .nfkd()
                .filter(|c| {
                    let is_first = !std::mem::replace(&mut started, true);
                    is_first || canonical_combining_class(*c) == 0
                })
                .filter(|c| !c.is_ascii_control())
                .for_each(push);
        });
        let mut others = vec![eip_2335, first_of_each];
        others.dedup();
        others.retain(|form| *form != normalised);
        others
    }
}

impl From<&str> for Password {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Gathers characters into a buffer that does not grow: growing would leave copies behind.
fn collect(text: &str, produce: impl FnOnce(&str, &mut dyn FnMut(char))) -> Zeroizing<String> {
    // No character decomposes to more than 11 times its bytes.
    let mut collected = Zeroizing::new(String::with_capacity(11 * text.len()));
    produce(text, &mut |c| collected.push(c));
    collected
}

/// A Hangul syllable is one composed character of two or three letters.
fn leading_jamo(c: char) -> Option<char> {
    const FIRST_SYLLABLE: u32 = 0xac00;
    const LAST_SYLLABLE: u32 = 0xd7a3;
    const SYLLABLES_PER_LEADING: u32 = 21 * 28;
    const FIRST_LEADING: u32 = 0x1100;

    let code = u32::from(c);
    if !(FIRST_SYLLABLE..=LAST_SYLLABLE).contains(&code) {
        return None;
    }
    char::from_u32(FIRST_LEADING + (code - FIRST_SYLLABLE) / SYLLABLES_PER_LEADING)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(text: &str) -> Vec<String> {
        let password = Password::from(text);
        std::iter::once(password.normalised())
            .chain(password.other_forms())
            .map(|form| form.to_string())
            .collect()
    }

    #[test]
    fn plain_passwords_are_tried_once() {
        assert_eq!(candidates("e0112d5a fef9\r\n"), ["e0112d5a fef9"]);
        assert_eq!(candidates("\u{0}a\u{1f}b\u{7f}"), ["ab"]);
        assert_eq!(candidates(""), [""]);
    }

    #[test]
    fn letters_are_decomposed() {
        // The password of EIP-2335's test vectors.
        let fraktur = "𝔱𝔢𝔰𝔱𝔭𝔞𝔰𝔰𝔴𝔬𝔯𝔡🔑";
        assert_eq!(candidates(fraktur), ["testpassword🔑"]);
        assert_eq!(candidates("é"), ["e\u{301}", "e"]);
        assert_eq!(candidates("한"), ["\u{1112}\u{1161}\u{11ab}", "\u{1112}"]);
        assert_eq!(candidates("ﬁ"), ["fi"]);
    }

    #[test]
    fn two_byte_controls_are_kept_first_and_removed_second() {
        assert_eq!(candidates("a\u{85}"), ["a\u{85}", "a"]);
    }

    #[test]
    fn buffer_is_large_enough_for_the_longest_decomposition() {
        let longest = "\u{fdfa}".repeat(50);
        let password = Password::from(longest.as_str());

        let normalised = password.normalised();

        assert_eq!(normalised.capacity(), 11 * longest.len());
        assert!(normalised.len() <= normalised.capacity());
    }

    #[test]
    fn debug_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", Password::from("secret")), "Password(..)");
    }

    #[test]
    fn generated_passwords_are_hex_and_differ() {
        let passwords = [Password::generate(), Password::generate()];
        assert_ne!(passwords[0], passwords[1]);
        for (password, digits) in passwords
            .into_iter()
            .zip([32, 32])
            .chain([(Password::generate_for_keymanager(), 64)])
        {
            assert_eq!(password.expose().len(), digits);
            assert!(password.expose().bytes().all(|c| c.is_ascii_hexdigit()));
        }
    }
}
